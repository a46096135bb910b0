import pytest

from atkd_jax.analysis.run_files import points_of, read_runs
from atkd_jax.errors import InputError


def test_every_file_may_be_missing_but_not_all(run_dir, tmp_path):
    (run,) = read_runs([run_dir])
    assert (run.name, run.config["objective.easy_weight"], len(run.metrics)) == ("atkd", 0.2, 39)
    for file in ("config.yaml", "evaluation.json", "judge.json", "harness.json", "environment.json"):
        (run_dir / file).unlink()
    (run_dir / "uncertainty.csv").unlink()
    (run,) = read_runs([run_dir])
    assert run.uncertainty == []
    assert (run.config, run.evaluation, run.judge, run.harness) == ({}, {}, {}, {})
    (run_dir / "metrics.jsonl").unlink()
    with pytest.raises(InputError, match="must be a run directory, but it holds none of"):
        read_runs([run_dir])
    with pytest.raises(InputError, match="absent must be a run directory, but it does not exist"):
        read_runs([tmp_path / "absent"])


def test_runs_are_named_by_what_tells_them_apart(run_dir, other_run_dir):
    assert [run.name for run in read_runs([run_dir, other_run_dir])] == ["atkd", "kd"]
    seeds = [run_dir / "0", other_run_dir / "0"]
    for seed in seeds:
        seed.mkdir()
        (seed / "config.yaml").write_text("seed: 0\n")
    assert [run.name for run in read_runs(seeds)] == ["atkd/0", "kd/0"]
    with pytest.raises(InputError, match="named once"):
        read_runs([run_dir, run_dir / "." / "0" / ".."])


@pytest.mark.parametrize(("file", "sentence"), [("config.yaml", "is no YAML"), ("evaluation.json", "is no JSON")])
def test_a_broken_file_is_named(file, sentence, run_dir):
    (run_dir / file).write_text("{[")
    with pytest.raises(InputError, match=f"{file} {sentence}"):
        read_runs([run_dir])


def test_a_line_of_csv_ends_at_a_newline_alone(run_dir):
    (run_dir / "uncertainty.csv").write_text("teacher,mean\na\u2028b,0.5\n", encoding="utf-8")
    (run,) = read_runs([run_dir])
    assert run.uncertainty == [["teacher", "mean"], ["a\u2028b", "0.5"]]


def test_what_was_measured_now_and_then_has_the_steps_of_its_own_lines(run_dir):
    (run,) = read_runs([run_dir])
    for line in run.metrics[4::5]:
        line["validation/cross_entropy"] = 1.0
    assert points_of(run, "validation/cross_entropy")[0] == [5, 10, 15, 20, 25, 30, 35]
    assert points_of(run, "gradient_norm")[1][:3] == [3.0, None, 1.0]  # What was not finite stays a gap.
