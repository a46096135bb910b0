import jax
import pytest

from atkd_jax.errors import InputError
from atkd_jax.sharding import make_mesh


def test_data_takes_what_the_others_leave():
    assert dict(make_mesh(fsdp=2, tensor=2).shape) == {"data": len(jax.devices()) // 4, "fsdp": 2, "tensor": 2}


def test_a_mesh_that_does_not_divide_is_refused():
    with pytest.raises(
        InputError, match=r"mesh.fsdp=3 times mesh.tensor=1 must divide the number of devices, which is 8"
    ):
        make_mesh(fsdp=3)
