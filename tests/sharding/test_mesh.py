import jax
import pytest

from atkd_jax.errors import InputError
from atkd_jax.sharding import make_mesh, row_share


def test_data_takes_what_the_others_leave():
    assert dict(make_mesh(fsdp=2, tensor=2).shape) == {"data": len(jax.devices()) // 4, "fsdp": 2, "tensor": 2}


def test_a_mesh_that_does_not_divide_is_refused():
    with pytest.raises(
        InputError, match=r"mesh.fsdp=3 times mesh.tensor=1 must divide the number of devices, which is 8"
    ):
        make_mesh(fsdp=3)


class Device:
    """Stands in for a device of some process."""

    def __init__(self, number, process):
        self.id, self.process_index = number, process


def mesh_of(*, processes, each, fsdp=1, tensor=1):
    return make_mesh(fsdp=fsdp, tensor=tensor, devices=[Device(n, n // each) for n in range(processes * each)])


@pytest.mark.parametrize(
    ("shape", "shares"),
    [
        ({"processes": 1, "each": 4}, [(0, 1, True)]),
        ({"processes": 2, "each": 2}, [(0, 2, True), (1, 2, True)]),
        ({"processes": 2, "each": 2, "fsdp": 4}, [(0, 2, True), (1, 2, True)]),
        ({"processes": 2, "each": 4, "tensor": 2}, [(0, 2, True), (1, 2, True)]),
        ({"processes": 4, "each": 1, "tensor": 2}, [(0, 2, True), (0, 2, False), (1, 2, True), (1, 2, False)]),
        ({"processes": 2, "each": 2, "tensor": 4}, [(0, 1, True), (0, 1, False)]),
    ],
)
def test_a_process_reads_the_rows_that_its_devices_hold(shape, shares):
    mesh = mesh_of(**shape)
    assert [tuple(row_share(mesh, process_index=p)) for p in range(shape["processes"])] == shares


def test_rows_that_lie_across_processes_are_refused():
    with pytest.raises(InputError, match=r"mesh.tensor=3 must divide the number of devices of each process, or be a"):
        row_share(mesh_of(processes=3, each=2, tensor=3), process_index=0)
