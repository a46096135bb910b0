import dataclasses
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from llama_oracle import GROUPED, as_tree, make_pair

from atkd_jax.errors import InputError
from atkd_jax.models import Decoder, Llama3RopeScaling, LongRopeScaling
from atkd_jax.models.layer_kinds import layer_kinds
from atkd_jax.models.rotary import rotary_angles

SCALING = Llama3RopeScaling(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position=16)
CONFIGS = {
    "grouped": GROUPED,
    "a kv head each": dataclasses.replace(GROUPED, num_kv_heads=4, norm_eps=1e-2),
    "one kv head": dataclasses.replace(GROUPED, num_kv_heads=1, rope_theta=500_000.0),
    "tied": dataclasses.replace(GROUPED, tie_embeddings=True),
    "heads wider than width": dataclasses.replace(GROUPED, head_dim=20),
    "llama3 rope": dataclasses.replace(GROUPED, head_dim=16, rope_scaling=SCALING),
}
TOKENS = np.random.default_rng(0).integers(0, GROUPED.vocab_size, (2, 40)).astype(np.int32)

# Layers of three kinds: a window and a base of its own, no positions, and neither.
MIXED = dataclasses.replace(
    GROUPED,
    window=5,
    windowed_layers=(True, False, False),
    rotary_layers=(True, False, True),
    local_rope_theta=100.0,
    attention_softcap=2.0,
    norm_placement="sandwich",
    qk_norm="head",
)
LEARNED = dataclasses.replace(
    GROUPED, positions="learned", position_offset=2, embed_width=12, norm="layer", parallel_residual=True
)

# Two of the packed texts are longer than 6 tokens, and one is not.
BY_LENGTH = dataclasses.replace(
    MIXED, rope_scaling=LongRopeScaling((1.0, 1.5, 2.0, 3.0), (2.0, 4.0, 6.0, 9.0), 6, amplitude=1.2)
)

pair = cache(make_pair)


@cache
def random_decoder(config):
    """A decoder far enough from its start that its layers matter."""
    graphdef, params = nnx.split(Decoder(config, rngs=nnx.Rngs(0)))
    return nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf * (7.0 if leaf.ndim > 2 else 1.0), params))


@jax.jit(static_argnums=0)
def logits_of(graphdef, params, tokens, positions=None, segment_ids=None):
    return nnx.merge(graphdef, params)(tokens, positions=positions, segment_ids=segment_ids)


@jax.jit(static_argnums=0)
def decode(graphdef, params, tokens, positions, cache, segment_ids):
    decoder = nnx.merge(graphdef, params)
    layers = decoder.unstacked_layers() if isinstance(cache.key, tuple) else None
    return decoder.decode(tokens, positions=positions, cache=cache, segment_ids=segment_ids, layers=layers)


@jax.jit(static_argnums=0, static_argnames="max_length")
def prefill(graphdef, params, tokens, positions, segment_ids, *, max_length):
    decoder = nnx.merge(graphdef, params)
    return decoder.prefill(tokens, positions=positions, segment_ids=segment_ids, max_length=max_length)


@jax.jit(static_argnums=0)
def hidden_of(graphdef, params, tokens):
    return nnx.merge(graphdef, params).hidden_states(tokens)


def decoder_logits(decoder, tokens, **where):
    return np.asarray(logits_of(*nnx.split(decoder), jnp.asarray(tokens), **where))


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_transformers(name):
    _, oracle, decoder = pair(CONFIGS[name])
    with torch.no_grad():
        expected = oracle(torch.tensor(TOKENS)).logits.numpy()
    logits = decoder_logits(decoder, TOKENS)
    assert np.ptp(expected) > 2  # An oracle that says nothing would agree with everything.
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["tied", "heads wider than width"])
def test_gradients_are_those_of_transformers(name):
    config, oracle, decoder = pair(CONFIGS[name])
    oracle.zero_grad()
    logits = oracle(torch.tensor(TOKENS)).logits
    torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), torch.tensor(TOKENS[:, 1:]).long().flatten()
    ).backward()
    gradients = {name: parameter.grad for name, parameter in oracle.named_parameters()}
    expected = as_tree(config, gradients.__getitem__)

    graphdef, params = nnx.split(decoder)
    actual = nnx.to_pure_dict(jax.jit(jax.grad(lambda p: _cross_entropy(nnx.merge(graphdef, p))))(params))
    paths = jax.tree_util.tree_leaves_with_path(expected)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for (path, of_torch), of_jax in zip(paths, jax.tree.leaves(actual), strict=True):
        np.testing.assert_allclose(of_jax, of_torch, atol=1e-4, rtol=1e-4, err_msg=str(path))


def _cross_entropy(decoder):
    log_probs = jax.nn.log_softmax(decoder(TOKENS)[:, :-1])
    return -jnp.mean(jnp.take_along_axis(log_probs, TOKENS[:, 1:, None], axis=-1))


@pytest.mark.parametrize("config", [GROUPED, BY_LENGTH], ids=["alike", "turned by length"])
def test_a_packed_row_gives_what_its_examples_give_alone(config):
    decoder = pair(GROUPED).decoder if config is GROUPED else random_decoder(config)
    lengths = (7, 13, 5)
    examples = [TOKENS[0, start : start + length] for start, length in zip((0, 10, 25), lengths, strict=True)]
    row = np.concatenate([*examples, np.zeros(7, np.int32)])[None]
    positions = np.concatenate([*map(np.arange, lengths), np.zeros(7, int)])[None].astype(np.int32)
    segments = np.repeat([1, 2, 3, 0], [*lengths, 7])[None].astype(np.int32)
    packed = decoder_logits(decoder, row, positions=positions, segment_ids=segments)
    assert np.isfinite(packed).all()
    start = 0
    for example in examples:
        alone = decoder_logits(decoder, example[None])[0]
        np.testing.assert_allclose(packed[0, start : start + len(example)], alone, atol=1e-5, rtol=0)
        start += len(example)


@pytest.mark.parametrize("padding", [1, 30])
def test_padding_changes_nothing(padding):
    decoder = pair(GROUPED).decoder
    plain = decoder_logits(decoder, TOKENS[:, :20])
    tokens = np.pad(TOKENS[:, :20], ((0, 1), (0, padding)), constant_values=5)
    segments = np.pad(np.ones((2, 20), np.int32), ((0, 1), (0, padding)))
    padded = decoder_logits(decoder, tokens, segment_ids=segments)
    np.testing.assert_allclose(padded[:2, :20], plain, atol=1e-5, rtol=0)
    assert np.isfinite(padded).all()


def test_what_stands_in_padding_reaches_neither_value_nor_gradient():
    graphdef, params = nnx.split(pair(GROUPED).decoder)
    segments = jnp.asarray(np.repeat([1, 0], [15, 5])[None])

    def value(params, tokens):
        return jnp.sum(jnp.sin(nnx.merge(graphdef, params)(tokens, segment_ids=segments)[:, :15]))

    value_and_grad = jax.jit(jax.value_and_grad(value))
    first = value_and_grad(params, jnp.asarray(TOKENS[:1, :20]))
    second = value_and_grad(params, jnp.asarray(TOKENS[:1, :20]).at[:, 15:].set(3))
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_the_scan_is_a_loop_over_layers():
    whole_graph, params = nnx.split(pair(GROUPED).decoder)

    @jax.jit
    def looped(params, tokens):
        decoder = nnx.merge(whole_graph, params)
        graphdef, stacked = nnx.split(decoder.layers)
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        x = decoder.embedding[...][tokens]
        kinds = layer_kinds(GROUPED)
        angles = rotary_angles(kinds.frequencies, positions)
        for i in range(GROUPED.num_layers):
            layer = nnx.merge(graphdef, jax.tree.map(lambda array, i=i: array[i], stacked))
            x, _ = layer(x, jnp.ones_like(tokens), angles, kinds.each[i])
        return decoder.final_norm(x)

    hidden = hidden_of(whole_graph, params, jnp.asarray(TOKENS))
    np.testing.assert_allclose(hidden, looped(params, jnp.asarray(TOKENS)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("config", [GROUPED, MIXED, LEARNED], ids=["alike", "mixed", "learned"])
@pytest.mark.parametrize("is_stacked", [True, False])
@pytest.mark.parametrize("is_prefilled", [True, False])
def test_a_cache_gives_what_a_full_pass_gives(config, is_stacked, is_prefilled):
    decoder = pair(GROUPED).decoder if config is GROUPED else random_decoder(config)
    graphdef, params = nnx.split(decoder)
    full = hidden_of(graphdef, params, jnp.asarray(TOKENS))
    cache, parts, start = decoder.init_cache(2, 48), [], 0
    if is_prefilled:
        hidden, cache = prefill(graphdef, params, TOKENS[:, :25], *whole_rows(25), max_length=48)
        parts, start = [hidden], 25
    if not is_stacked:
        cache = cache.unstacked()
    for length in (1, 1, 10, 1, 1, 1) if is_prefilled else (25, 1, 1, 10, 1, 1, 1):
        positions, segments = whole_rows(length, start)
        hidden, cache = decode(graphdef, params, TOKENS[:, start : start + length], positions, cache, segments)
        parts.append(hidden)
        start += length
    assert int(cache.length) == 40
    np.testing.assert_array_equal(cache.segment_ids, np.arange(48)[None] < np.array([[40], [40]]))
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), full, atol=1e-5, rtol=0)


def whole_rows(length, start=0):
    """Positions and segments of two rows without padding."""
    return np.broadcast_to(np.arange(start, start + length, dtype=np.int32), (2, length)), np.ones(
        (2, length), np.int32
    )


@pytest.mark.parametrize("is_prefilled", [True, False])
def test_prompts_of_unequal_length_share_a_cache(is_prefilled):
    graphdef, params = nnx.split(pair(GROUPED).decoder)
    lengths = (4, 12)
    tokens = np.full((2, 12), 9, np.int32)
    present = np.zeros((2, 12), np.int32)
    for row, length in enumerate(lengths):
        tokens[row, 12 - length :] = TOKENS[row, :length]
        present[row, 12 - length :] = 1
    positions = np.maximum(np.cumsum(present, axis=1, dtype=np.int32) - 1, 0)
    if is_prefilled:
        hidden, cache = prefill(graphdef, params, tokens, positions, present, max_length=20)
    else:
        cache = pair(GROUPED).decoder.init_cache(2, 20)
        hidden, cache = decode(graphdef, params, tokens, positions, cache, present)
    following = np.stack([TOKENS[row, length : length + 1] for row, length in enumerate(lengths)])
    step, _ = decode(
        graphdef, params, following, np.asarray(lengths, np.int32)[:, None], cache, np.ones((2, 1), np.int32)
    )
    assert np.isfinite(hidden).all()
    for row, length in enumerate(lengths):
        alone = hidden_of(graphdef, params, jnp.asarray(TOKENS[row : row + 1, : length + 1]))[0]
        np.testing.assert_allclose(hidden[row, 12 - length :], alone[:length], atol=1e-5, rtol=0)
        np.testing.assert_allclose(step[row, 0], alone[length], atol=1e-5, rtol=0)


def test_a_window_is_seen_and_no_more():
    decoder = random_decoder(dataclasses.replace(GROUPED, window=3, num_layers=1))
    first, other = np.array(TOKENS[:1]), np.array(TOKENS[:1])
    other[0, 10] += 1
    differs = np.abs(decoder_logits(decoder, first) - decoder_logits(decoder, other)).max(axis=-1)[0] > 0
    assert np.flatnonzero(differs).tolist() == [10, 11, 12]


def test_a_row_longer_than_the_learned_positions_is_refused():
    decoder = Decoder(dataclasses.replace(LEARNED, max_position=39), rngs=nnx.Rngs(0))
    with pytest.raises(InputError, match="at most the 39 tokens that the model has learned positions for, got 40"):
        decoder.hidden_states(TOKENS)


def test_padding_takes_no_learned_position():
    """25 positions are enough for 20 tokens behind 15 of padding, and for 5 more."""
    decoder = random_decoder(dataclasses.replace(LEARNED, max_position=25))
    graphdef, params = nnx.split(decoder)
    full = hidden_of(graphdef, params, jnp.asarray(TOKENS[:, 15:]))
    present = np.broadcast_to(np.arange(35, dtype=np.int32) >= 15, (2, 35)).astype(np.int32)
    positions = np.maximum(np.cumsum(present, axis=1, dtype=np.int32) - 1, 0)
    hidden, cache = prefill(graphdef, params, TOKENS[:, :35], positions, present, max_length=48)
    np.testing.assert_allclose(hidden[:, 15:], full[:, :20], atol=1e-5, rtol=0)
    more, segments = whole_rows(5, 20)
    hidden, cache = decode(graphdef, params, TOKENS[:, 35:], more, cache, segments)
    np.testing.assert_allclose(hidden, full[:, 20:], atol=1e-5, rtol=0)
    beyond, segments = whole_rows(1, 25)
    assert np.isfinite(decode(graphdef, params, TOKENS[:, :1], beyond, cache, segments)[0]).all()


def test_a_cache_too_short_for_its_prompt_is_refused():
    with pytest.raises(ValueError, match="max_length must be at least the 40 tokens, got 39"):
        pair(GROUPED).decoder.prefill(TOKENS, positions=TOKENS, segment_ids=TOKENS, max_length=39)


def test_bfloat16_arithmetic_stays_near_float32_and_keeps_parameters_and_logits_float32():
    graphdef, params = nnx.split(pair(GROUPED).decoder)
    narrow = nnx.split(Decoder(GROUPED, rngs=nnx.Rngs(0), dtype=jnp.bfloat16))[0]
    exact = np.asarray(logits_of(graphdef, params, jnp.asarray(TOKENS)))
    rounded = logits_of(narrow, params, jnp.asarray(TOKENS))
    assert rounded.dtype == jnp.float32
    hidden = jax.eval_shape(lambda p: nnx.merge(narrow, p).hidden_states(jnp.asarray(TOKENS)), params)
    assert hidden.dtype == jnp.bfloat16
    assert np.corrcoef(exact.ravel(), np.asarray(rounded).ravel())[0, 1] > 0.999
    gradient = jax.jit(jax.grad(lambda p: _cross_entropy(nnx.merge(narrow, p))))(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.float32)}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_parameters_can_be_kept_in_bfloat16():
    decoder = Decoder(GROUPED, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(decoder))} == {jnp.dtype(jnp.bfloat16)}
    assert jax.eval_shape(lambda: decoder(jnp.asarray(TOKENS))).dtype == jnp.float32


def test_parameters_are_nothing_but_params_under_plain_names():
    decoder = Decoder(GROUPED, rngs=nnx.Rngs(0))
    assert jax.tree.leaves(nnx.state(decoder, nnx.Not(nnx.Param))) == []
    paths = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(decoder))}
    assert {"embedding", "head", "final_norm.scale", "layers.attention.query.kernel", "layers.mlp.up.kernel"} <= paths
    tied = Decoder(dataclasses.replace(GROUPED, tie_embeddings=True), rngs=nnx.Rngs(0))
    assert "head" not in {str(path[0]) for path, _ in nnx.to_flat_state(nnx.state(tied))}


@pytest.mark.parametrize("name", ["tied", "grouped"])
def test_head_matrix_turns_hidden_states_into_logits(name):
    decoder = pair(CONFIGS[name]).decoder
    hidden = hidden_of(*nnx.split(decoder), jnp.asarray(TOKENS))
    assert decoder.head_matrix().shape == (32, 101)
    np.testing.assert_allclose(decoder.logits(hidden), hidden @ decoder.head_matrix(), atol=1e-4, rtol=0)


def test_same_seed_same_weights_other_seed_others():
    first, again, other = (Decoder(GROUPED, rngs=nnx.Rngs(seed)).embedding[...] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_fresh_model_predicts_nearly_uniformly():
    log_probs = jax.nn.log_softmax(Decoder(GROUPED, rngs=nnx.Rngs(0))(jnp.asarray(TOKENS)))
    assert abs(float(-log_probs.mean()) - np.log(101)) < 0.1
