import pytest

from atkd_jax.config_teacher import EndpointOptionsConfig, TeacherConfig


def test_an_endpoint_needs_a_cache_to_write_to():
    with pytest.raises(
        ValueError, match=r"is asked by `cache` alone, which writes to teacher\.cache; name that directory"
    ):
        TeacherConfig(endpoint="http://localhost:8000/v1")
    assert TeacherConfig(endpoint="http://localhost:8000/v1", cache="kept").endpoint_options.api == "vllm"


@pytest.mark.parametrize(("name", "value"), [("in_flight", 0), ("requests_per_second", 0.0), ("api", "openai")])
def test_options_out_of_range(name, value):
    with pytest.raises(ValueError, match=name):
        EndpointOptionsConfig(**{name: value})
