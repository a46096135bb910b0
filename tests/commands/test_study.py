"""A study end to end over a tiny model. Its cells run in this process, by `--cell`, or are stood in for."""

import csv
import json
from pathlib import Path

import pytest
import yaml
from forked_runs import wait_until

from atkd_jax.commands import study
from atkd_jax.commands.main import main


@pytest.fixture
def study_words(untrained, tmp_path):
    """The words of a study of two cells, which learn from all of the data and from half of it."""
    base = untrained.model_dump(mode="json")
    base["training"]["steps"] = 2
    base["evaluation"] |= {"samples": 0, "rouge_examples": 2}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(base))
    cells = {"all": {}, "half": {"settings": {"data.train_split": "train[:6]"}}}
    tree = {"directory": str(tmp_path / "out"), "base": "config.yaml", "cells": cells, "reference": "all"}
    tree["claims"] = [
        {"name": "more data", "sentence": "Half hurts.", "cells": ["half"], "expect": "higher", "than": ["all"]}
    ]
    tree |= {"keep_checkpoints": False, "plots": [{"x": "cell"}, {"x": "cell", "y": "nothing"}]}
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return ["study", str(tmp_path / "study.yaml")]


@pytest.fixture
def no_processes(monkeypatch):
    """Refuses to start any process."""

    def refuse(cell, *_, **__):
        raise AssertionError(f"{cell.key} was started")

    monkeypatch.setattr(study, "CellProcess", refuse)


def test_a_study_runs_goes_on_and_compares(study_words, tmp_path, no_processes, capsys):
    out = tmp_path / "out"
    assert main([*study_words, "--cell", "all/0"]) == 0
    assert main([*study_words, "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert "all/0: done (atkd, 2 steps, 1,024 places)" in printed
    assert "half/0: to run (atkd, 2 steps, 1,024 places)" in printed
    assert main([*study_words, "--cell", "half/0"]) == 0
    assert main(study_words) == 0  # What has finished is not started again.
    printed = capsys.readouterr().out
    assert "study: 2 of 2 cells done" in printed
    assert "ROUGE-L" in printed
    rows = {row["name"]: row for row in csv.DictReader((out / "results.csv").read_text().splitlines())}
    for name in ("all", "half"):
        kept = json.loads((out / name / "0" / "evaluation.json").read_text())["models"]["student after"]
        assert float(rows[name]["perplexity"]) == kept["perplexity"]
        assert float(rows[name]["tokens_per_second"]) > 0
        assert not (out / name / "0" / "checkpoints").exists()
    (_, half) = json.loads((out / "results.json").read_text())["summary"]
    assert half["reference"] == "all"
    assert half["comparisons"]["forward_kl"]["n"] == 1
    assert (out / "perplexity_by_cell.png").stat().st_size > 1000
    assert "nothing_by_cell.png was not drawn: study: no cell that has finished" in printed
    table = (out / "results.md").read_text()
    assert "| half | all |" in table
    assert "- **more data: unclear.** Half hurts." in table  # One seed is no test.
    page = (out / "report.html").read_text()
    assert "Half hurts." in page
    assert "half/0/config.yaml" in page
    assert "forward KL to the teacher" in (out / "half" / "0" / "report.html").read_text()
    (out / "report.html").unlink()
    assert main(["report", str(out)]) == 0
    assert (out / "report.html").read_text() == page
    assert main(["report", str(out), str(out / "all" / "0")]) == 2
    assert "a study has a page of its own; name it alone" in capsys.readouterr().err


@pytest.mark.slow  # In parts: test_study_cell.py
def test_a_finished_cell_whose_student_another_one_needs_is_run_again(study_words, tmp_path, no_processes, capsys):
    path, student = tmp_path / "study.yaml", tmp_path / "out" / "all" / "0" / "student"
    assert main([*study_words, "--cell", "all/0"]) == 0
    assert not student.exists()
    tree = yaml.safe_load(path.read_text())
    tree["cells"]["half"]["settings"]["teacher.model"] = "cell:all"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    capsys.readouterr()
    assert main([*study_words, "--dry_run"]) == 0
    assert "all/0: to run (" in capsys.readouterr().out
    assert main([*study_words, "--cell", "all/0"]) == 0
    assert (student / "config.json").exists()
    capsys.readouterr()
    assert main([*study_words, "--dry_run"]) == 0
    assert "all/0: done (" in capsys.readouterr().out


class Failing:
    """A process that ends at once: the first cell of the study fails, the others do not."""

    def __init__(self, cell, *_, **__):
        self._code = 1 if cell.name == "half" else 0

    def poll(self):
        return self._code

    def stop(self):
        pass


def test_a_failed_cell_is_told_after_the_others(study_words, monkeypatch, capsys):
    monkeypatch.setattr(study, "CellProcess", Failing)
    assert main(study_words) == 2
    out, err = capsys.readouterr()
    assert "study: 1 of 2 cells done, 1 failed" in out
    assert err.startswith("study: 1 of 2 cells failed: half/0: it ended with exit code 1 (")
    assert err.rstrip().endswith("out/half/0/log.txt).")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "study needs its YAML file"),
        (["{}", "--only", "sft"], "--only names 'sft', but the cells are all, half"),
        (["{}", "--cell", "kd/7"], "--cell must be one of all/0, half/0, but 'kd/7' came"),
        (["{}", "--training.steps", "none"], "cell all: training.steps must be a whole number of at least 1"),
        (["{}x"], "there is no such config file"),
    ],
)
def test_what_is_wrong_is_one_sentence(study_words, words, sentence, capsys):
    assert main(["study", *(word.format(study_words[1]) for word in words)]) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["teacher_size", "smollm2_students", "gradient_share"])
def test_the_projects_studies_have_a_plan(name, tmp_path, no_processes, capsys):
    path = Path(__file__).parents[2] / "configs" / "studies" / f"{name}.yaml"
    assert main(["study", str(path), "--directory", str(tmp_path / "out"), "--dry_run"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert last == f"{len(lines)} cells, 0 done. Nothing was started."
    assert any(line.startswith("atkd,") and line.count(": to run") == 1 for line in lines)


@pytest.mark.slow
def test_a_killed_study_goes_on_where_it_stopped(study_words, tmp_path, launcher):
    words = [*study_words, "--training.steps", "60", "--checkpoint.every_steps", "10", "--processes", "2"]
    metrics = tmp_path / "out" / "half" / "0" / "metrics.jsonl"

    def begun():
        return metrics.exists() and metrics.read_text().count("\n") > 12

    first = launcher.start(words)
    wait_until(begun, [first])
    first.kill()
    # Its cells save and end by themselves; until then another study is refused.
    again = launcher.start(words)
    while again.wait() == 2 and "another study works in" in again.output:
        again = launcher.start(words)
    assert again.wait() == 0, again.output
    assert "Going on from step" in (tmp_path / "out" / "half" / "0" / "log.txt").read_text()
    third = launcher.start(words)
    assert third.wait() == 0
    assert "study: 2 of 2 cells done" in third.output
