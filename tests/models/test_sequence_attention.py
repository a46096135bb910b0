import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atkd_jax.errors import InputError
from atkd_jax.models import attention
from atkd_jax.models.attention import Scores, attention_mask, causal_attention, grouped_query_attention
from atkd_jax.models.sequence_attention import attention_on_mesh
from atkd_jax.sharding import make_mesh

ROWS, HEADS, KV_HEADS, HEAD_DIM = 2, 4, 2, 8


def drawn(length):
    rng = np.random.default_rng(0)
    query = rng.normal(size=(ROWS, length, HEADS, HEAD_DIM)).astype(np.float32)
    key, value = rng.normal(size=(2, ROWS, KV_HEADS, length, HEAD_DIM)).astype(np.float32)
    segments = np.sort(rng.integers(1, 4, (ROWS, length)), axis=1).astype(np.int32)
    return query, key, value, segments


def value_and_gradients(attend, query, key, value):
    def scalar(*arrays):
        out = attend(*arrays)
        return jnp.sum(jnp.sin(out)), out

    run = jax.jit(jax.value_and_grad(scalar, argnums=(0, 1, 2), has_aux=True))
    (_, out), gradients = run(query, key, value)
    return out, *gradients


@pytest.mark.parametrize(
    ("mesh", "window"),
    [
        ({"sequence": 2, "tensor": 2}, None),
        ({"sequence": 4, "tensor": 1}, 37),
        ({"sequence": 4, "tensor": 2}, jnp.asarray(5)),
        ({"sequence": 2, "tensor": 4}, 37),  # more devices than key-value heads
        ({"tensor": 2}, jnp.asarray(37)),
    ],
)
def test_it_is_the_attention_of_one_device(monkeypatch, mesh, window):
    # Parts and slices of a row as short as this one.
    monkeypatch.setattr(attention, "_SHORTEST_PART", 8)
    monkeypatch.setattr(attention, "_MOST_SCORES", 256)
    query, key, value, segments = drawn(64)
    slots = jnp.arange(64)
    mask = attention_mask(
        query_segments=segments, key_segments=segments, query_slots=slots, key_slots=slots, window=window
    )
    scores = Scores(0.5, 3.0)
    expected = value_and_gradients(lambda *a: grouped_query_attention(*a, mask, scores=scores), query, key, value)

    def split(query, key, value):
        def attend(*arrays, **rest):
            return causal_attention(*arrays, **rest, scores=scores)

        return attention_on_mesh(attend, make_mesh(**mesh), query, key, value, jnp.asarray(segments), window)

    for ours, theirs in zip(value_and_gradients(split, query, key, value), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_every_device_computes_as_much(monkeypatch):
    """The work of one device of four: a quarter of that of one device alone, the left out scores included."""
    monkeypatch.setattr(attention, "_SHORTEST_PART", 8)

    def flops(sequence):
        mesh = make_mesh(sequence=sequence, devices=jax.devices()[:sequence])
        query, key, value, segments = (jnp.asarray(each) for each in drawn(256))

        def attend(*arrays):
            return attention_on_mesh(causal_attention, mesh, *arrays, segments, None)

        return jax.jit(attend).lower(query, key, value).compile().cost_analysis()["flops"]

    assert flops(4) < 1.05 * flops(1) / 4


def test_a_row_that_does_not_divide_is_refused():
    with pytest.raises(InputError, match=r"mesh.sequence=4: a row must have a multiple of 16 tokens, its square"):
        attention_on_mesh(causal_attention, make_mesh(sequence=4), *map(jnp.asarray, drawn(24)), None)
