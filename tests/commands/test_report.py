import json

import pytest

from atkd_jax.commands.main import main


@pytest.fixture
def runs(tmp_path):
    for name in ("a", "b"):
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        (run / "metrics.jsonl").write_text("".join(json.dumps({"step": n, "loss": 1 / n}) + "\n" for n in (1, 2)))
    return tmp_path / "runs"


def test_a_page_is_written_into_the_run_or_beside_the_runs(runs, capsys):
    assert main(["report", str(runs / "a")]) == 0
    assert "loss by step" in (runs / "a" / "report.html").read_text()
    assert main(["report", str(runs / "a"), str(runs / "b")]) == 0
    assert "a | b" in (runs / "comparison.html").read_text()
    assert main(["report", str(runs / "a"), "--out", str(runs / "new" / "page.html")]) == 0
    assert (runs / "new" / "page.html").is_file()
    assert capsys.readouterr().out.count("Written to ") == 3


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "report needs at least one run directory"),
        (["absent"], "must be a run directory"),
        (["a", "--seed", "3"], "report does not take --seed"),
    ],
)
def test_what_is_wrong_is_one_sentence(words, sentence, runs, monkeypatch, capsys):
    monkeypatch.chdir(runs)
    assert main(["report", *words]) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1


def test_out_must_be_a_file(runs, capsys):
    assert main(["report", str(runs / "a"), "--out", str(runs)]) == 2
    assert "--out must be a file" in capsys.readouterr().err
