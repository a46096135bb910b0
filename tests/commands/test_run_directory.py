import json
import math

import pytest

from atkd_jax.commands.run_directory import write_json, write_run_facts, write_text
from atkd_jax.config import Config
from atkd_jax.config_file import load_config
from atkd_jax.errors import InputError


def test_a_run_says_what_it_is(tmp_path):
    config = Config.model_validate({"run_dir": tmp_path / "a" / "b", "training": {"steps": 3}})
    write_run_facts(config, devices=["cpu:0", "cpu:1"])
    assert sorted(path.name for path in config.run_dir.iterdir()) == ["config.yaml", "environment.json"]
    assert load_config(config.run_dir / "config.yaml") == config
    environment = json.loads((config.run_dir / "environment.json").read_text())
    assert environment["devices"] == ["cpu:0", "cpu:1"]


def test_a_file_in_the_place_of_the_directory_is_named(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="run must be a directory, but a file is in its place"):
        write_run_facts(Config.model_validate({"run_dir": tmp_path / "run"}), devices=[])


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"x": math.nan})
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "half \udcff")
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    assert json.loads(path.read_text()) == {"x": 1}
