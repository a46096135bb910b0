import csv
import json

import pytest

from atkd_jax.commands.main import main

SMALL = ["--landscape.points", "3", "--landscape.seeds", "0", "1", "--evaluation.samples", "0"]


@pytest.fixture(scope="module")
def rows_of():
    return lambda path: list(csv.DictReader(path.read_text().splitlines()))


def test_the_loss_around_the_runs_student(trained, trained_words, tmp_path, rows_of, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.html").write_text("old")
    assert main(["landscape", *trained_words, *SMALL, "--out", str(out)]) == 0
    assert "Loss landscape" in (out / "report.html").read_text()
    assert "curvature" in capsys.readouterr().out
    assert main(["evaluate", *trained_words, "--after_only", "--evaluation.samples", "0"]) == 0
    expected = json.loads((trained.run_dir / "evaluation.json").read_text())["models"]["student after"]
    rows = rows_of(out / "landscape.csv")
    origins = [float(row["loss"]) for row in rows if float(row["first"]) == 0]
    assert origins == [pytest.approx(expected["cross_entropy"], rel=1e-5)] * 2
    assert [row["seed"] for row in rows] == ["0"] * 3 + ["1"] * 3
    kept = json.loads((out / "landscape.json").read_text())
    one, other = kept["students"]["student"]
    assert one["losses"][0] != other["losses"][0]
    assert one["rise"] == max(one["losses"]) - one["loss"]
    assert (out / "landscape.png").stat().st_size > 1000


def test_students_are_put_side_by_side_over_a_plane(untrained_words, tmp_path, tiny_teacher_directory, rows_of):
    link = tmp_path / "again"
    link.symlink_to(tiny_teacher_directory)
    words = ["--students", str(tiny_teacher_directory), str(link), "--landscape.dimensions", "2"]
    assert main(["landscape", *untrained_words, *SMALL[:5], *words]) == 0
    rows = rows_of(tmp_path / "run" / "landscape.csv")
    assert len(rows) == 2 * 2 * 9
    half = len(rows) // 2
    assert [row["loss"] for row in rows[:half]] == [row["loss"] for row in rows[half:]]
    assert main(["report", str(tmp_path / "run")]) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Loss landscape" in page
    assert "the loss around students" in page


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--landscape.dimensions", "3"], "landscape.dimensions must be a whole number from 1 to 2, but '3' came"),
        (["--landscape.points", "4"], "landscape.points=4 must be odd"),
        (["--landscape.seeds", "1", "1"], "landscape.seeds=[1, 1] must be whole numbers from 0 on, each once"),
        ([], "holds no checkpoint; train first"),
    ],
)
def test_what_is_wrong_is_one_sentence(untrained_words, words, sentence, capsys):
    assert main(["landscape", *untrained_words, *words]) == 2
    err = capsys.readouterr().err
    assert sentence in err
    assert err.count("\n") == 1
