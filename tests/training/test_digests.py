import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atkd_jax.sharding import make_mesh, parameter_sharding
from atkd_jax.training.digests import array_digests, json_digest

TREE = {
    "kernel": jax.random.normal(jax.random.key(0), (3, 4, 8)),
    "half": jax.random.normal(jax.random.key(1), (8,), jnp.bfloat16),
    "count": jnp.array(7, jnp.int32),
}


@pytest.mark.parametrize("name", list(TREE))
def test_every_bit_of_every_element_shows(name):
    before = array_digests(TREE)
    array = np.asarray(TREE[name])
    for element in range(array.size):
        for bit in range(array.dtype.itemsize * 8):
            data = bytearray(array.tobytes())
            data[element * array.dtype.itemsize + bit // 8] ^= 1 << (bit % 8)
            changed = jnp.asarray(np.frombuffer(bytes(data), array.dtype).reshape(array.shape))
            assert array_digests({name: changed})[f"['{name}']"] != before[f"['{name}']"]
        if element == 3:
            break


def test_exchanged_elements_show():
    assert array_digests(jnp.array([1.0, 2.0, 3.0])) != array_digests(jnp.array([2.0, 1.0, 3.0]))


def test_the_sharding_does_not_matter():
    sharding = parameter_sharding(make_mesh(fsdp=4, tensor=2), ("layers", "embed", "mlp"), TREE["kernel"].shape)
    assert array_digests(jax.device_put(TREE["kernel"], sharding)) == array_digests(TREE["kernel"])


def test_json_digests_do_not_depend_on_the_order_of_keys():
    assert json_digest({"a": 1, "b": [2]}) == json_digest({"b": [2], "a": 1}) != json_digest({"a": 1, "b": [3]})
