import pydantic
import pytest

from atkd_jax.config_machines import DistributedConfig, MeshConfig, ProfileConfig


def test_one_device_and_one_process_are_the_default_and_nothing_is_recorded():
    assert (MeshConfig().fsdp, MeshConfig().tensor, MeshConfig().sequence) == (1, 1, 1)
    assert MeshConfig().teacher_fsdp is None
    assert DistributedConfig().num_processes is None
    assert ProfileConfig().start_step is None


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (MeshConfig, {"fsdp": 0}),
        (MeshConfig, {"teacher_tensor": 0}),
        (DistributedConfig, {"process_id": -1}),
        (DistributedConfig, {"num_processes": 0}),
        (ProfileConfig, {"start_step": 0}),
    ],
)
def test_a_number_of_none_is_refused(kind, values):
    with pytest.raises(pydantic.ValidationError, match="greater than or equal to"):
        kind.model_validate(values)


def test_an_unknown_axis_is_refused():
    with pytest.raises(pydantic.ValidationError, match="pipeline"):
        MeshConfig.model_validate({"pipeline": 2})
