import dataclasses

import jax
import pytest
from flax import nnx
from llama_oracle import GROUPED

from atkd_jax.models import Decoder, logical_axes

SIZES_OF_AXES = {
    "layers": GROUPED.num_layers,
    "vocab": GROUPED.vocab_size,
    "embed": GROUPED.width,
    "heads": GROUPED.num_heads,
    "kv_heads": GROUPED.num_kv_heads,
    "head_dim": GROUPED.head_dim,
    "mlp": GROUPED.mlp_width,
    "experts": 5,
}
EVERYTHING = dataclasses.replace(
    GROUPED,
    norm="layer",
    norm_placement="sandwich",
    qk_norm="head",
    positions="learned",
    embed_width=32,
    qkv_bias=True,
    output_bias=True,
)
CONFIGS = {
    "as LLaMA": GROUPED,
    "everything": dataclasses.replace(EVERYTHING, mlp_bias=True),
    "experts": dataclasses.replace(EVERYTHING, num_experts=5, experts_per_token=2),
}


def is_names(node):
    return isinstance(node, tuple)


@pytest.fixture(scope="module")
def params():
    return nnx.state(Decoder(GROUPED, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("name", CONFIGS)
def test_every_axis_is_as_long_as_its_name_says(name):
    params = nnx.state(nnx.eval_shape(lambda: Decoder(CONFIGS[name], rngs=nnx.Rngs(0))))
    names = jax.tree.leaves(logical_axes(params), is_leaf=is_names)
    arrays = jax.tree.leaves(params)
    assert len(names) == len(arrays) >= 12
    for of_array, array in zip(names, arrays, strict=True):
        assert len(of_array) == array.ndim
        assert all(SIZES_OF_AXES[name] == size for name, size in zip(of_array, array.shape, strict=True) if name)


def test_the_tree_stays_the_same(params):
    assert jax.tree.structure(logical_axes(params), is_leaf=is_names) == jax.tree.structure(params)


def test_a_tied_head_has_none():
    tied = Decoder(dataclasses.replace(GROUPED, tie_embeddings=True), rngs=nnx.Rngs(0))
    assert "head" not in logical_axes(nnx.state(tied))


def test_plain_dicts_and_shapes_will_do(params):
    plain = jax.eval_shape(lambda: nnx.to_pure_dict(params))
    assert logical_axes(plain)["layers"]["mlp"]["down"]["kernel"] == ("layers", "mlp", "embed")


def test_other_arrays_are_refused(params):
    with pytest.raises(ValueError, match=r"every array must be a parameter of a Decoder, got 'layers\.bias'"):
        logical_axes({"layers": {"bias": params["embedding"][...]}})
    with pytest.raises(ValueError, match=r"embedding must have the axes \('vocab', 'embed'\), got the shape \(32,\)"):
        logical_axes({"embedding": params["embedding"][...][0]})
