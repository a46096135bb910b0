import pydantic
import pytest

from atkd_jax.config_student import StudentConfig


@pytest.mark.parametrize(
    ("values", "needed"),
    [
        ({"init": "prune"}, "exactly one of student.layers and student.keep_layers"),
        (
            {"init": "prune", "layers": 2, "keep_layers": (0, 1)},
            "exactly one of student.layers and student.keep_layers",
        ),
        ({"init": "directory"}, "student.directory"),
        ({"init": "scratch"}, "student.size"),
    ],
)
def test_a_student_needs_what_its_start_needs(values, needed):
    with pytest.raises(pydantic.ValidationError, match=f"student.init={values['init']} needs {needed} to be set"):
        StudentConfig(**values)


@pytest.mark.parametrize("layers", [(1, 0), (0, 0), (-1, 2)])
def test_kept_layers_ascend_from_zero(layers):
    with pytest.raises(pydantic.ValidationError, match="from 0, ascending, each once, but"):
        StudentConfig(keep_layers=layers)
