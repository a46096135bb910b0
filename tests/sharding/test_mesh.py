import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from atkd_jax.errors import InputError
from atkd_jax.sharding import make_mesh, make_meshes, row_share


def test_data_takes_what_the_others_leave():
    shape = {"data": len(jax.devices()) // 4, "fsdp": 2, "sequence": 1, "tensor": 2}
    assert dict(make_mesh(fsdp=2, tensor=2).shape) == shape


def test_a_mesh_that_does_not_divide_is_refused():
    with pytest.raises(
        InputError, match=r"mesh.fsdp=3 times mesh.tensor=1 must divide the number of devices, which is 8"
    ):
        make_mesh(fsdp=3)


class Device:
    """Stands in for a device of some process."""

    def __init__(self, number, process):
        self.id, self.process_index = number, process


def mesh_of(*, processes, each, **axes):
    return make_mesh(**axes, devices=[Device(n, n // each) for n in range(processes * each)])


def test_the_teachers_mesh_cuts_the_same_devices_in_the_same_order():
    meshes = make_meshes(fsdp=2, sequence=2, teacher_fsdp=4, teacher_tensor=1)
    assert dict(meshes.teacher.shape) == {"data": 1, "fsdp": 4, "sequence": 2, "tensor": 1}
    assert list(meshes.teacher.devices.flat) == list(meshes.student.devices.flat)
    same = make_meshes(fsdp=2, tensor=2)
    assert same.teacher is same.student


def test_a_teachers_mesh_that_does_not_divide_is_refused():
    with pytest.raises(InputError, match=r"mesh.teacher_fsdp=2 times mesh.teacher_tensor=8 times mesh.sequence=1 must"):
        make_meshes(fsdp=2, teacher_tensor=8)


@pytest.mark.parametrize(
    ("shape", "shares"),
    [
        ({"processes": 1, "each": 4}, [(0, 1, True)]),
        ({"processes": 2, "each": 2}, [(0, 2, True), (1, 2, True)]),
        ({"processes": 2, "each": 2, "fsdp": 4}, [(0, 2, True), (1, 2, True)]),
        ({"processes": 2, "each": 4, "tensor": 2}, [(0, 2, True), (1, 2, True)]),
        ({"processes": 4, "each": 1, "tensor": 2}, [(0, 2, True), (0, 2, False), (1, 2, True), (1, 2, False)]),
        ({"processes": 2, "each": 2, "tensor": 4}, [(0, 1, True), (0, 1, False)]),
        ({"processes": 2, "each": 2, "sequence": 2, "tensor": 2}, [(0, 1, True), (0, 1, False)]),
    ],
)
def test_a_process_reads_the_rows_that_its_devices_hold(shape, shares):
    mesh = mesh_of(**shape)
    assert [tuple(row_share(mesh, process_index=p)) for p in range(shape["processes"])] == shares


def test_rows_that_lie_across_processes_are_refused():
    with pytest.raises(InputError, match=r"mesh.tensor=3 times mesh.sequence=1 must divide the number of devices of"):
        row_share(mesh_of(processes=3, each=2, tensor=3), process_index=0)


def test_a_torus_may_deal_a_process_rows_that_are_no_neighbours():
    devices = np.array([Device(number, number % 2) for number in range(4)]).reshape(4, 1, 1, 1)
    mesh = Mesh(devices, ("data", "fsdp", "sequence", "tensor"))
    assert [tuple(row_share(mesh, process_index=process)) for process in (0, 1)] == [(0, 2, True), (1, 2, True)]
