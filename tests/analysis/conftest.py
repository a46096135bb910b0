"""A study's file, made on the spot, and cells of it."""

import pytest
import yaml

from atkd_jax.analysis.grid import expand
from atkd_jax.analysis.study_file import read_study


@pytest.fixture
def write_study(tmp_path):
    """Writes a study's file, with a base config of two steps beside it, and returns its path."""
    (tmp_path / "base.yaml").write_text("training:\n  steps: 2\n")

    def write(**tree):
        path = tmp_path / "study.yaml"
        path.write_text(
            yaml.safe_dump({"directory": str(tmp_path / "out"), "base": "base.yaml"} | tree, sort_keys=False)
        )
        return path

    return write


@pytest.fixture
def cells_of(write_study):
    """The study and its cells."""

    def make(**tree):
        path = write_study(**tree)
        study = read_study(path)
        return study, expand(study, path=path)

    return make
