import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from llama_oracle import GROUPED, angles_of, torch_llama
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from atkd_jax.models import (
    DynamicRopeScaling,
    LinearRopeScaling,
    Llama3RopeScaling,
    LongRopeScaling,
    YarnRopeScaling,
)
from atkd_jax.models.rotary import rotary_frequencies, rotate, text_lengths
from atkd_jax.sharding import constrain, make_mesh

SCALING = Llama3RopeScaling(factor=32.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position=64)
CONFIGS = [
    dataclasses.replace(GROUPED, num_layers=1, head_dim=64, rope_theta=100_000.0),
    dataclasses.replace(GROUPED, num_layers=1, head_dim=64, rope_theta=500_000.0, rope_scaling=SCALING),
    dataclasses.replace(GROUPED, num_layers=1, head_dim=64, rope_scaling=LinearRopeScaling(8.0)),
    dataclasses.replace(GROUPED, num_layers=1, head_dim=64, rope_scaling=YarnRopeScaling(4.0, 64, 1.14)),
    dataclasses.replace(
        GROUPED, num_layers=1, head_dim=64, rope_scaling=YarnRopeScaling(8.0, 512, 1.5, 16.0, 2.0, whole_pairs=False)
    ),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_rotation_is_that_of_transformers(config):
    rng = np.random.default_rng(0)
    heads = rng.normal(size=(2, 12, 3, 64)).astype(np.float32)
    positions = rng.integers(0, 200, (2, 12))
    oracle = torch_llama(config).model.rotary_emb
    frequencies = rotary_frequencies(config, theta=config.rope_theta, scaling=config.rope_scaling)
    np.testing.assert_allclose(frequencies, oracle.inv_freq, rtol=1e-5)
    cosines, sines = oracle(torch.tensor(heads), torch.tensor(positions))
    expected, _ = apply_rotary_pos_emb(torch.tensor(heads), torch.tensor(heads), cosines, sines, unsqueeze_dim=2)
    turned = rotate(jnp.asarray(heads), *angles_of(config, jnp.asarray(positions)))
    np.testing.assert_allclose(turned, expected, atol=1e-4, rtol=0)


FACTORS = [tuple(1 + slope * pair for pair in range(32)) for slope in (0.05, 0.4)]


@pytest.mark.parametrize("scaling", [LongRopeScaling(*FACTORS, 64, 1.19), DynamicRopeScaling(4.0, 64)])
@pytest.mark.parametrize("length", [64, 65, 150])
def test_longer_texts_are_turned_as_transformers_turns_them(scaling, length):
    config = dataclasses.replace(GROUPED, num_layers=1, head_dim=64, max_position=64, rope_scaling=scaling)
    oracle = torch_llama(config).model.rotary_emb
    positions = np.arange(length)[None]
    expected = oracle(torch.zeros(1), torch.tensor(positions))
    for ours, theirs in zip(angles_of(config, jnp.asarray(positions)), expected, strict=True):
        np.testing.assert_allclose(ours, theirs[..., :32], atol=1e-4, rtol=0)


def test_every_text_of_a_row_has_a_length_of_its_own():
    positions = jnp.asarray([[0, 0, 1, 2, 0, 1, 0, 0], [0, 1, 2, 3, 4, 5, 6, 7]])
    segments = jnp.asarray([[0, 1, 1, 1, 2, 2, 0, 0], [1, 1, 1, 1, 1, 0, 0, 0]])
    expected = [[1, 3, 3, 3, 2, 2, 1, 1], [5, 5, 5, 5, 5, 8, 8, 8]]
    np.testing.assert_array_equal(text_lengths(positions, segments), expected)
    expected[1] = [8] * 8  # Only the segments said where the second row's text ends.
    np.testing.assert_array_equal(text_lengths(positions), expected)
    assert text_lengths(jnp.asarray([[41]])).tolist() == [[42]]  # a token that continues a cache


def test_a_text_is_as_long_where_its_tokens_are_split_over_devices():
    lengths = (15, 30, 19)
    positions = jnp.tile(jnp.concatenate([jnp.arange(length) for length in lengths])[None], (2, 1))
    segments = jnp.tile(jnp.repeat(jnp.arange(3), jnp.asarray(lengths))[None], (2, 1))
    mesh = make_mesh(fsdp=2, sequence=4)
    found = jax.jit(lambda *arrays: text_lengths(*(constrain(each, mesh, "rows", "length") for each in arrays)))
    np.testing.assert_array_equal(found(positions, segments), np.tile(np.repeat(lengths, lengths), (2, 1)))


def test_scores_depend_on_the_distance_alone():
    config = CONFIGS[0]
    heads = jnp.asarray(np.random.default_rng(1).normal(size=(1, 2, 1, 64)), jnp.float32)

    def score(first, second):
        turned = rotate(heads, *angles_of(config, jnp.asarray([[first, second]])))
        return float(turned[0, 0, 0] @ turned[0, 1, 0])

    assert score(3, 10) == pytest.approx(score(103, 110), abs=1e-3)
    assert score(3, 10) != pytest.approx(score(3, 11), abs=1e-3)


def test_narrow_heads_are_turned_in_float32():
    config = CONFIGS[0]
    heads = jnp.asarray(np.random.default_rng(2).normal(size=(1, 4, 2, 64)), jnp.bfloat16)
    angles = angles_of(config, jnp.asarray([[0, 1000, 2000, 4000]]))
    turned = rotate(heads, *angles)
    assert turned.dtype == jnp.bfloat16
    np.testing.assert_array_equal(turned, rotate(heads.astype(jnp.float32), *angles).astype(jnp.bfloat16))


def test_what_is_beyond_the_turned_part_of_a_head_stays():
    config = dataclasses.replace(GROUPED, num_layers=1, head_dim=64, rotary_dim=16)
    heads = jnp.asarray(np.random.default_rng(3).normal(size=(1, 4, 2, 64)), jnp.float32)
    positions = jnp.asarray([[0, 10, 20, 30]])
    turned = rotate(heads, *angles_of(config, positions))
    np.testing.assert_array_equal(turned[..., 16:], heads[..., 16:])
    narrow = dataclasses.replace(config, head_dim=16, rotary_dim=None)
    np.testing.assert_array_equal(turned[..., :16], rotate(heads[..., :16], *angles_of(narrow, positions)))
