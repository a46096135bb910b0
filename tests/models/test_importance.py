import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from llama_oracle import GROUPED

from atkd_jax.models import Decoder, measure_importance
from atkd_jax.models.layer_kinds import layer_kinds

ROWS, LENGTH = 2, 9


@pytest.fixture(scope="module")
def batch():
    tokens = np.random.default_rng(0).integers(0, GROUPED.vocab_size, (ROWS, LENGTH)).astype(np.int32)
    segments = np.ones((ROWS, LENGTH), np.int32)
    segments[1, 6:] = 0
    positions = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), (ROWS, LENGTH))
    return {
        name: jnp.asarray(each)
        for name, each in zip(("tokens", "positions", "segment_ids"), (tokens, positions, segments), strict=True)
    }


def one_by_one(model, batch):
    """The same figures in float64 from each layer by itself."""
    counted = np.asarray(batch["segment_ids"]) > 0
    x, found = model._embed(batch["tokens"], batch["positions"], room=LENGTH), []
    angles = model._angles(batch["positions"])
    for layer, kind in zip(model.unstacked_layers(), layer_kinds(model.config).each, strict=True):
        query, key, value = layer.queries_keys_values(x, angles, kind)
        gathered = layer.attention.causal(query, key, value, batch["segment_ids"], kind.window)
        units = np.abs(np.asarray(layer.mlp.units(layer.mlp_inputs(x, gathered)[1]), np.float64))
        lengths = np.sqrt(np.sum(np.asarray(gathered, np.float64) ** 2, axis=-1))
        after = layer.finish(x, gathered)
        before, behind = np.asarray(x, np.float64)[counted], np.asarray(after, np.float64)[counted]
        cosines = (before * behind).sum(-1) / np.linalg.norm(before, axis=-1) / np.linalg.norm(behind, axis=-1)
        rows = [row[keep].mean(axis=0) for row, keep in zip(units, counted, strict=True)]
        of_heads = [row[keep].mean(axis=0) for row, keep in zip(lengths, counted, strict=True)]
        heads = np.sum(np.square(of_heads), axis=0).reshape(model.config.num_kv_heads, -1).sum(-1)
        found.append((np.sum(1 - cosines), np.sum(np.square(rows), axis=0), heads))
        x = after
    return [np.stack(each) for each in zip(*found, strict=True)]


@pytest.mark.parametrize("changes", [{}, {"parallel_residual": True, "gated_mlp": False}, {"norm_placement": "branch"}])
def test_figures_are_those_of_the_layers_one_by_one(batch, changes):
    model = Decoder(dataclasses.replace(GROUPED, **changes), rngs=nnx.Rngs(0))
    nnx.update(model, jax.tree.map(lambda leaf: 5.0 * leaf, nnx.state(model)))
    graphdef, params = nnx.split(model)
    found = jax.jit(lambda params: measure_importance(nnx.merge(graphdef, params), **batch))(params)
    assert int(found.tokens) == LENGTH + 6
    for ours, expected in zip(found[:3], one_by_one(model, batch), strict=True):
        assert expected.min() > 0
        np.testing.assert_allclose(ours, expected, rtol=1e-4)


def test_a_layer_that_adds_nothing_has_no_influence_and_a_dead_unit_none_either(batch):
    model = Decoder(GROUPED, rngs=nnx.Rngs(0))
    for linear in (model.layers.attention.output, model.layers.mlp.down):
        linear.kernel[...] = linear.kernel[...].at[1].set(0.0)
    model.layers.mlp.up.kernel[...] = model.layers.mlp.up.kernel[...].at[2, :, 7].set(0.0)
    found = measure_importance(model, **batch)
    assert float(found.distance[1]) < 1e-5 < float(found.distance.min(where=jnp.arange(3) != 1, initial=1.0))
    assert float(found.mlp_units[2, 7]) == 0.0
    assert int((found.mlp_units[2] == 0).sum()) == 1


def test_padding_counts_for_nothing(batch):
    model = Decoder(GROUPED, rngs=nnx.Rngs(0))
    changed = batch | {"tokens": jnp.where(batch["segment_ids"] > 0, batch["tokens"], 3)}
    for ours, other in zip(measure_importance(model, **batch), measure_importance(model, **changed), strict=True):
        np.testing.assert_allclose(ours, other, rtol=1e-6)
