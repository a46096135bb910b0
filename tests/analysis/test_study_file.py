import pytest

from atkd_jax.analysis.study_file import flat_settings, read_study
from atkd_jax.errors import InputError

CLAIM = {"name": "x", "sentence": "y", "cells": ["kd"], "expect": "grows"}


def test_a_study_says_only_what_it_needs(write_study):
    study = read_study(write_study(seeds=[3, 1]))
    assert (study.seeds, study.processes, study.reference) == ((3, 1), 1, None)


def test_groups_and_dotted_names_are_the_same_settings():
    flat = {"student.lora.rank": 4, "seed": 1, "student.keep_layers": [0, 2]}
    assert flat_settings({"student": {"lora": {"rank": 4}, "keep_layers": [0, 2]}, "seed": 1}) == flat
    assert flat_settings(flat) == flat


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ({"sedes": [1]}, r"unknown key sedes; the nearest is seeds\.$"),
        ({"cells": {"a": {"setings": {}}}}, r"unknown key cells\.a\.setings; the nearest is settings\.$"),
        ({"directory": None}, r"directory: .*, but None came\.$"),
        ({"seeds": []}, r"seeds: .*at least 1 item.*, but \[\] came\.$"),
        ({"seeds": [1, 1]}, r"seeds must be whole numbers from 0 on, each once, but \[1, 1\] came\.$"),
        ({"prepared": {"t": {"seeds": [-1]}}}, r"seeds must be whole numbers from 0 on, each once, but \[-1\] came"),
        ({"claims": [{"name": "x"}]}, r"claims\.0\.(sentence|cells|expect) is needed: "),
        (
            {"claims": [CLAIM | {"expect": "lower"}]},
            r"claims\.0: .*lower or higher needs than, .* but expect=lower came",
        ),
        ({"claims": [CLAIM | {"expect": "grows"}]}, r"claims\.0: .*a claim that something grows needs along, the axis"),
        (
            {"claims": [CLAIM | {"along": "teacher", "measure": "bleu"}]},
            r"claims\.0: .*measure must be one of cross_entropy, ",
        ),
        ({"claims": [CLAIM | {"than_": []}]}, r"unknown key claims\.0\.than_; the nearest is than\.$"),
        ({"processes": 2, "environments": [{"A": "0"}]}, r"environments must have one for each of the 2 processes"),
    ],
)
def test_what_is_wrong_is_one_sentence(write_study, tree, sentence):
    path = write_study(**tree)
    with pytest.raises(InputError, match=sentence) as raised:
        read_study(path)
    assert str(raised.value).startswith(f"{path}: ")


def test_a_directory_is_needed(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("seeds: [0]\n")
    with pytest.raises(InputError, match=r"directory is needed: Everything that the study writes"):
        read_study(path)
