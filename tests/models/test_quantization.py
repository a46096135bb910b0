import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from llama_oracle import GROUPED

from atkd_jax.models import Decoder, logical_axes, quantize_in_place, weight_bytes
from atkd_jax.models.quantized_array import dequantized

pytest.importorskip("qwix")
TOKENS = jnp.arange(12)[None]
# Wide enough that scales and norms weigh as little beside the matrices as they do in real models.
WIDE = dataclasses.replace(GROUPED, vocab_size=64, width=256, num_heads=4, num_kv_heads=2, head_dim=64, mlp_width=512)


@pytest.mark.parametrize(("bits", "least", "most"), [("int8", 0.50, 0.51), ("int4", 0.25, 0.28)])
def test_the_weights_take_a_half_or_a_quarter_of_bfloat16(bits, least, most):
    model = Decoder(WIDE, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16)
    before = weight_bytes(model)
    assert before == sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model)))
    quantize_in_place(model, bits)
    arrays = jax.tree.leaves(nnx.state(model))
    assert weight_bytes(model) == sum(leaf.nbytes for leaf in arrays)
    assert least < weight_bytes(model) / before < most


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_the_model_computes_with_what_its_integers_stand_for(bits, tied):
    config = dataclasses.replace(GROUPED, tie_embeddings=tied, qkv_bias=True, num_experts=3, experts_per_token=2)
    model, dense = (Decoder(config, rngs=nnx.Rngs(0)) for _ in range(2))
    quantize_in_place(model, bits)
    stored = {".".join(map(str, path)): slot.get_value() for path, slot in nnx.to_flat_state(nnx.state(model))}
    for path, slot in nnx.to_flat_state(nnx.state(dense)):
        name = ".".join(map(str, path))
        if f"{name}_scale" in stored:
            slot.set_value(dequantized(stored[name], stored[f"{name}_scale"]))
            assert stored[name].dtype in (jnp.int8, jnp.uint8)
        nnx.update(dense, nnx.from_flat_state([(path, slot)]))
    np.testing.assert_allclose(model(TOKENS), dense(TOKENS), atol=1e-5)
    assert {name for name in stored if name.endswith("router.kernel_scale")} == set()
    assert float(jnp.abs(model(TOKENS) - Decoder(config, rngs=nnx.Rngs(0))(TOKENS)).max()) > 0


def test_every_array_has_its_names_and_its_place():
    model = Decoder(GROUPED, rngs=nnx.Rngs(0))
    asked = {}
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))

    def place(path, shape):
        asked[path] = jax.sharding.NamedSharding(mesh, jax.P("x" if shape[0] % 2 == 0 else None))
        return asked[path]

    quantize_in_place(model, "int4", place=place)
    logical_axes(nnx.state(model))
    arrays = {".".join(map(str, path)): slot.get_value() for path, slot in nnx.to_flat_state(nnx.state(model))}
    assert "layers.mlp.down.kernel_scale" in asked
    for path, sharding in asked.items():
        assert arrays[path].sharding == sharding
