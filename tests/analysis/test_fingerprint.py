import dataclasses

from atkd_jax.analysis.fingerprint import fingerprint
from atkd_jax.config import Config


def prints(cells, directory, **needed):
    found = dict(needed)
    for cell in cells:
        found.setdefault(cell.key, fingerprint(cell, directory=directory, needed=found))
    return found


def test_it_changes_with_every_input_and_with_nothing_else(cells_of, tmp_path):
    data = tmp_path / "pairs.jsonl"
    data.write_text('{"prompt": "a", "response": "b"}\n')
    tree = {"settings": {"data.source": str(data), "teacher.model": str(tmp_path / "teacher")}}
    (tmp_path / "teacher").mkdir()

    def now(**changes):
        settings = tree["settings"] | changes.pop("settings", {})
        study, cells = cells_of(**(tree | changes | {"settings": settings}))
        return prints(cells, study.directory)["run/0"]

    first = now()
    assert now() == first
    assert now(directory=str(tmp_path / "elsewhere")) == first
    assert now(settings={"cache_dir": "/other"}) == first
    assert now(settings={"training.batch_size": Config().training.batch_size}) == first
    assert now(settings={"landscape.points": 5}) == first
    claim = {"name": "x", "sentence": "y", "cells": ["run"], "expect": "lower", "than": ["run"]}
    assert now(claims=[claim]) == first
    assert now(settings={"training.gradient_share_every_steps": 5}) != first
    assert now(settings={"training.steps": 3}) != first
    assert now(settings={"evaluation.max_examples": 3}) != first
    data.write_text('{"prompt": "a", "response": "c"}\n')
    second = now()
    assert second != first
    (tmp_path / "teacher" / "config.json").write_text("{}")
    assert now() != second
    corpus = tmp_path / "plain.jsonl"
    mixed = {"data": {"corpus": str(corpus), "packing": False}, "rollout.author": "student"}
    corpus.write_text('{"text": "a"}\n')
    third = now(settings=mixed)
    corpus.write_text('{"text": "b"}\n')
    assert now(settings=mixed) != third


def test_it_changes_with_what_a_cell_starts_from(cells_of):
    study, cells = cells_of(
        cells={"kd": {"settings": {"teacher.model": "cell:teacher"}}}, prepared={"teacher": {}}, seeds=[0, 1]
    )
    plain = prints(cells, study.directory)
    other = prints(cells, study.directory, **{"teacher/0": "another"})
    assert plain["kd/0"] != other["kd/0"]
    # The student that it starts from may be there or not.
    place = study.directory / "teacher" / "0" / "student"
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    assert prints(cells, study.directory) == plain
    moved = [dataclasses.replace(cell) for cell in cells]
    assert len(set(prints(moved, study.directory).values())) == 3
