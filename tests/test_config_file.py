from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from atkd_jax.analysis.claims import require_claims
from atkd_jax.analysis.grid import expand
from atkd_jax.analysis.study_file import read_study
from atkd_jax.analysis.summary import require_references
from atkd_jax.config import Config
from atkd_jax.config_file import dump_config, load_config
from atkd_jax.errors import InputError

CONFIGS = sorted((Path(__file__).parent.parent / "configs").rglob("*.yaml"))


def written(directory, text):
    path = directory / "run.yaml"
    path.write_text(text)
    return path


def test_a_file_holds_only_differences(tmp_path):
    config = load_config(written(tmp_path, "training:\n  steps: 7\noptimizer:\n  learning_rate: 1e-4\n"))
    assert config.training.steps == 7
    assert config.optimizer.learning_rate == 1e-4
    assert config.data == Config().data


def test_overrides_win_over_the_file(tmp_path):
    path = written(tmp_path, "training:\n  steps: 7\n  batch_size: 4\n")
    config = load_config(path, {"training.steps": "9", "run_dir": tmp_path})
    assert (config.training.steps, config.training.batch_size, config.run_dir) == (9, 4, tmp_path)


def test_file_and_overrides_are_checked_together(tmp_path):
    path = written(tmp_path, "student:\n  init: directory\n")
    assert load_config(path, {"student.directory": "/some/model"}).student.directory == Path("/some/model")


@pytest.mark.parametrize("text", ["", "# nothing\n", "training:\n", "training:\n  # steps: 3\n"])
def test_what_is_left_out_keeps_its_default(tmp_path, text):
    assert load_config(written(tmp_path, text)) == Config()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("trainig:\n  steps: 3\n", "unknown key trainig; the nearest is training."),
        ("training:\n  stps: 3\n", "unknown key training.stps; the nearest is training.steps."),
        ("batch_size: 3\n", "unknown key batch_size; the nearest is training.batch_size."),
        ("xyzzy: 3\n", "unknown key xyzzy; `launch.py train --help` lists the keys."),
        ("training:\n  steps: many\n", "training.steps must be a whole number of at least 1, but 'many' came."),
        ("training:\n  steps: 0\n", "training.steps must be a whole number of at least 1, but 0 came."),
        ("training:\n  steps: 1.5\n", "training.steps must be a whole number of at least 1, but 1.5 came."),
        ("training:\n  steps: yes\n", "training.steps must be a whole number of at least 1, but True came."),
        ("objective:\n  name: akd\n", "objective.name must be one of atkd, decoupled_kd, "),
        ("data:\n  packing: maybe\n", "data.packing must be true or false, but 'maybe' came."),
        ("optimizer:\n  clip_norm: -1\n", "optimizer.clip_norm must be none or a number above 0, but -1 came."),
        (
            "student:\n  keep_layers: [0, x]\n",
            "student.keep_layers must be a list, each item a whole number, but 'x' came.",
        ),
        ("student: 4\n", "student must be a group of keys, but 4 came."),
        ("student:\n  init: scratch\n", "student.init=scratch needs student.size to be set."),
        ("- 1\n", "a config file holds keys and values, but list came."),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, text, sentence):
    path = written(tmp_path, text)
    with pytest.raises(InputError) as raised:
        load_config(path)
    assert str(raised.value).startswith(f"{path}: {sentence}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("seed: [1,\n", 2, "expected"),
        ("seed: 1\n\tx: 2\n", 2, "cannot start"),
        ("seed: 1\nseed: 2\n", 2, "stands twice"),
    ],
)
def test_yaml_that_does_not_parse_is_named_with_its_line(tmp_path, text, line, reason):
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=reason) as raised:
        load_config(path)
    assert str(raised.value).startswith(f"{path}, line {line}: this is not valid YAML: ")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"absent.yaml: there is no such config file"):
        load_config(tmp_path / "absent.yaml")


def test_a_directory_is_no_config_file(tmp_path):
    with pytest.raises(InputError, match="there is no such config file"):
        load_config(tmp_path)


def test_a_binary_file_is_no_config_file(tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a text file"):
        load_config(path)


def test_the_command_line_is_named_where_it_is_at_fault(tmp_path):
    path = written(tmp_path, "training:\n  steps: 7\n")
    with pytest.raises(InputError, match=r"^command line: seed must be a whole number of at least 0, but 'x' came.$"):
        load_config(path, {"seed": "x"})


def test_the_file_is_named_where_the_override_is_right(tmp_path):
    path = written(tmp_path, "training:\n  stps: 7\n")
    with pytest.raises(InputError, match=r"run.yaml: unknown key training.stps"):
        load_config(path, {"training.steps": "7"})


def test_an_override_does_not_hide_a_group_that_is_none(tmp_path):
    with pytest.raises(InputError, match="student must be a group of keys, but 4 came"):
        load_config(written(tmp_path, "student: 4\n"), {"student.layers": "3"})


def test_the_dump_is_the_whole_config():
    tree = yaml.safe_load(dump_config(Config()))
    assert set(tree) == set(Config.model_fields)
    assert tree["student"]["layers"] == 8


@given(
    steps=st.integers(1, 10**9),
    rate=st.floats(1e-12, 1e3),
    layers=st.sets(st.integers(0, 99), min_size=1),
    clip=st.none() | st.floats(1e-6, 1e6),
    model=st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1),
)
def test_a_dumped_config_reads_back_equal(tmp_path_factory, steps, rate, layers, clip, model):
    config = Config.model_validate(
        {
            "teacher": {"model": model},
            "student": {"keep_layers": sorted(layers)},
            "optimizer": {"learning_rate": rate, "clip_norm": clip},
            "training": {"steps": steps},
        }
    )
    path = tmp_path_factory.getbasetemp() / "round_trip.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path) == config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_is_valid_and_short(path):
    if path.parent.name == "studies":
        study = read_study(path)
        cells = expand(study, path=path)
        require_references(study, cells, path)
        require_claims(study, cells, path)
    else:
        load_config(path)
    text = path.read_text()
    assert len(text.splitlines()) <= 40
    header = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    for heading in ("Paper:", "Command:", "Hardware:", "Wall time:", "Expect:"):
        assert heading in header


def test_there_are_shipped_configs():
    assert CONFIGS
