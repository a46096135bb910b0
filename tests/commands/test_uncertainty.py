import csv

from atkd_jax.commands.main import main
from atkd_jax.commands.uncertainty import label_of


def test_teachers_are_put_side_by_side(untrained, untrained_words, tmp_path, tiny_teacher_directory, capsys):
    link = tmp_path / "again"
    link.symlink_to(tiny_teacher_directory)
    words = ["--teachers", str(tiny_teacher_directory), str(link), "--out", str(tmp_path / "out")]
    assert main(["uncertainty", *untrained_words, *words]) == 0
    assert "share_below_0.1" in capsys.readouterr().out
    one, other = csv.DictReader((tmp_path / "out" / "uncertainty.csv").read_text().splitlines())
    assert one.pop("teacher") != other.pop("teacher")
    assert one == other
    assert int(one["tokens"]) > 100
    assert 0 < float(one["mean"]) < 1
    assert (tmp_path / "out" / "uncertainty.png").stat().st_size > 1000


def test_a_page_that_is_there_is_brought_up_to_date(untrained, untrained_words, capsys):
    page = untrained.run_dir / "report.html"
    assert main(["uncertainty", *untrained_words]) == 0
    assert not page.exists()
    page.write_text("old")
    assert main(["uncertainty", *untrained_words]) == 0
    assert "The teachers&#39; uncertainty" in page.read_text()
    assert "The report is" in capsys.readouterr().out


def test_a_teacher_is_called_by_what_tells_it_from_the_others():
    names = ("runs/s/teacher-1m/0/student", "runs/s/teacher-3m/0/student")
    assert [label_of(name, names) for name in names] == ["teacher-1m", "teacher-3m"]
    assert label_of("org/model", ("org/model",)) == "model"
    assert label_of("a/b", ("a/b", "a/b/c")) == "a/b"
