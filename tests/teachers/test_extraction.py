import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from atkd_jax.data.signal_format import SignalFormat
from atkd_jax.models import Decoder, DecoderConfig, logical_axes
from atkd_jax.objectives import next_token_targets
from atkd_jax.sharding import make_mesh, parameter_shardings, shard_batch
from atkd_jax.teachers.extraction import make_extraction

ROWS, LENGTH, VOCAB = 8, 12, 32
PADDED = 35  # the head has more columns than the tokenizer has ids


@pytest.fixture(scope="module")
def teacher():
    config = DecoderConfig(
        vocab_size=PADDED, width=16, num_layers=1, num_heads=4, num_kv_heads=2, head_dim=8, mlp_width=24
    )
    graphdef, params = nnx.split(Decoder(config, rngs=nnx.Rngs(params=0)))
    return graphdef, jax.tree.map(lambda leaf: 4.0 * leaf, params)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    segments = np.tile(np.array([[1] * 5 + [2] * 4 + [0] * 3], np.int32), (ROWS, 1))
    return {
        "tokens": rng.integers(0, VOCAB, (ROWS, LENGTH)).astype(np.int32),
        "positions": np.tile(np.array([[*range(5), *range(4), 0, 0, 0]], np.int32), (ROWS, 1)),
        "segment_ids": segments,
        "loss_mask": (rng.random((ROWS, LENGTH)) < 0.7) & (segments > 0),
        "example_numbers": (2 * np.arange(ROWS, dtype=np.int32)[:, None] + segments).astype(np.int32),
    }


@pytest.fixture(scope="module")
def known(teacher, batch):
    """Targets, mask and the teacher's log-probabilities in float64."""
    model = nnx.merge(*teacher)
    inputs = {name: batch[name] for name in ("positions", "segment_ids")}
    logits = np.asarray(model(batch["tokens"], **inputs), np.float64)[..., :VOCAB]
    names = ("tokens", "segment_ids", "loss_mask")
    targets, mask = map(np.asarray, next_token_targets(**{name: batch[name] for name in names}))
    return targets, mask, logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def extracted(teacher, form, batch, **changes):
    graphdef, params = teacher
    return jax.tree.map(np.asarray, make_extraction(graphdef, form, seed=3, **changes)(params, batch))


def assert_exact_numbers(found, known):
    targets, mask, log_probs = known
    rest = log_probs.copy()
    np.put_along_axis(rest, targets[..., None], -np.inf, axis=-1)
    log_uncertainty = np.log(np.exp(rest).sum(axis=-1))
    rest = np.maximum(rest - log_uncertainty[..., None], -1e30)
    target = np.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
    expected = (target, log_uncertainty, -(np.exp(rest) * rest).sum(axis=-1))
    for name, value in zip(("target_log_prob", "log_uncertainty", "rest_entropy"), expected, strict=True):
        np.testing.assert_allclose(found[name][mask], value[mask], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("chunk_tokens", [7, 256])
def test_the_likeliest_words_and_the_mass_outside_are_those_of_whole_logits(teacher, batch, known, chunk_tokens):
    found = extracted(teacher, SignalFormat("top_k", VOCAB, k=5, tail_draws=4), batch, chunk_tokens=chunk_tokens)
    assert_exact_numbers(found, known)
    _, mask, log_probs = known
    ids = np.argsort(-log_probs, axis=-1)[..., :5]
    np.testing.assert_array_equal(found["ids"][mask], ids[mask])
    kept = np.take_along_axis(log_probs, ids, axis=-1)
    np.testing.assert_allclose(found["log_probs"][mask], kept[mask], rtol=2e-5, atol=2e-6)
    outside = np.log1p(-np.exp(kept).sum(axis=-1))
    np.testing.assert_allclose(found["log_rest_mass"][mask], outside[mask], rtol=1e-4)
    drawn, weights = found["tail_ids"][mask], found["tail_weights"][mask]
    assert not (drawn[:, :, None] == ids[mask][:, None, :]).any()
    assert not (drawn == known[0][mask][:, None]).any()
    tail = np.exp(log_probs[mask])
    for taken in (ids[mask], known[0][mask][:, None]):
        np.put_along_axis(tail, taken, 0, axis=-1)
    np.testing.assert_allclose(weights.sum(axis=-1), tail.sum(axis=-1), rtol=1e-4)


def test_the_rests_draws_leave_the_target_out_and_follow_the_rest(teacher, batch, known):
    found = extracted(teacher, SignalFormat("rest_sample", VOCAB, draws=255), batch)
    assert_exact_numbers(found, known)
    targets, mask, log_probs = known
    ids, counts = found["ids"][mask], found["counts"][mask]
    assert not (ids == targets[mask][:, None]).any()
    assert (counts.sum(axis=-1) == 255).all()
    rest = np.exp(log_probs[mask])
    np.put_along_axis(rest, targets[mask][:, None], 0, axis=-1)
    rest /= rest.sum(axis=-1, keepdims=True)
    shares = np.zeros(rest.shape)
    np.add.at(shares, (np.arange(len(ids))[:, None], np.maximum(ids, 0)), counts / 255)
    # Five standard deviations of the mean over the tokens.
    deviation = np.sqrt((rest * (1 - rest)).sum(axis=0) / 255) / len(ids)
    assert (np.abs((shares - rest).mean(axis=0)) < 5 * deviation + 1e-6).all()


def test_draws_are_those_of_the_example_wherever_it_stands(teacher, batch, known):
    form = SignalFormat("rest_sample", VOCAB, draws=16)
    found = extracted(teacher, form, batch)["ids"]
    order = np.array([3, 1, 0, 2, 7, 6, 5, 4])
    moved = extracted(teacher, form, {name: array[order] for name, array in batch.items()})["ids"]
    mask = known[1]
    np.testing.assert_array_equal(moved[mask[order]], found[order][mask[order]])


def test_hidden_states_are_kept_in_the_type_that_is_asked_for(teacher, batch, known):
    names = ("positions", "segment_ids")
    expected = nnx.merge(*teacher).hidden_states(batch["tokens"], **{name: batch[name] for name in names})
    for hidden_type in ("float32", "bfloat16", "int8"):
        form = SignalFormat("hidden", VOCAB, width=16, hidden_type=hidden_type)
        found = extracted(teacher, form, batch)
        assert_exact_numbers(found, known)
        if hidden_type == "int8":
            assert found["hidden"].dtype == np.int8
            # Half a step of each token's own scale.
            gap = np.abs(found["hidden"] * found["scale"][..., None] - expected)
            assert (gap <= 0.5001 * found["scale"][..., None]).all()
        else:
            assert found["hidden"].dtype == jnp.dtype(hidden_type)
            tolerance = 1e-6 if hidden_type == "float32" else 2.0**-8
            np.testing.assert_allclose(
                found["hidden"].astype(np.float32), expected, rtol=tolerance, atol=tolerance / 10
            )


@pytest.mark.parametrize(
    "axes", [{"fsdp": 2, "tensor": 2}, pytest.param({"sequence": 2, "tensor": 2}, marks=pytest.mark.slow)]
)
def test_a_mesh_gives_the_same(teacher, batch, known, axes):
    form = SignalFormat("top_k", VOCAB, k=5, tail_draws=4)
    alone = extracted(teacher, form, batch)
    mesh = make_mesh(**axes)
    graphdef, params = teacher
    params = jax.device_put(params, parameter_shardings(mesh, logical_axes(params), params))
    split = extracted((graphdef, params), form, shard_batch(mesh, batch), chunk_tokens=3, mesh=mesh)
    mask = known[1]
    for name, array in alone.items():
        if array.dtype == np.int32:
            np.testing.assert_array_equal(split[name][mask], array[mask])
        else:
            np.testing.assert_allclose(split[name][mask], array[mask], rtol=2e-5, atol=2e-6)
