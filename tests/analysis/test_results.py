import json

import pytest

from atkd_jax.analysis.results import RESULT_NAME, has_students, measured, read_result, result_json, share_done


def finish(cell, *, perplexity=7.0, speeds=(10.0, 400.0, 300.0, 200.0)):
    """What training and evaluation leave behind."""
    run_dir = cell.config.run_dir
    run_dir.mkdir(parents=True)
    lines = [{"step": step, "tokens_per_second": speed} for step, speed in enumerate(speeds, start=1)]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    models = {"teacher": {"perplexity": 3.0}, "student after": {"perplexity": perplexity, "forward_kl": 0.5}}
    (run_dir / "evaluation.json").write_text(json.dumps({"models": models}))


def test_speed_is_the_median_without_the_step_that_compiled(cells_of):
    _, (cell,) = cells_of()
    finish(cell)
    student, teacher = measured(cell.config.run_dir)
    assert student == {"perplexity": 7.0, "forward_kl": 0.5, "tokens_per_second": 300.0}
    assert teacher == {"perplexity": 3.0}
    path = cell.config.run_dir / "metrics.jsonl"
    lines = [
        json.loads(line) | {"gradient_share/on_data/x": share}
        for line, share in zip(path.read_text().splitlines(), (0.2, 0.4, None, 0.6), strict=True)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert measured(cell.config.run_dir)[0] == student | {"gradient_share_on_data_x": pytest.approx(0.4)}


def test_a_result_is_read_with_the_inputs_that_it_was_written_with(cells_of):
    _, (cell,) = cells_of()
    finish(cell, perplexity=None)
    assert read_result(cell, fingerprint="x") is None
    kept = result_json(cell, fingerprint="x", seconds=3.5, peak_bytes=7)
    (cell.config.run_dir / RESULT_NAME).write_text(json.dumps(kept))
    found = read_result(cell, fingerprint="x")
    assert found.peak_bytes == 7
    assert (found.measures["perplexity"], found.measures["forward_kl"], found.seconds) == (float("inf"), 0.5, 3.5)
    assert read_result(cell, fingerprint="y") is None
    (cell.config.run_dir / RESULT_NAME).write_text("{half")
    assert read_result(cell, fingerprint="x") is None


def test_a_student_is_there_when_it_was_exported(cells_of):
    _, (cell,) = cells_of()
    student = cell.config.run_dir / "student"
    student.mkdir(parents=True)
    assert not has_students(cell, [None])
    (student / "config.json").write_text("{}")
    assert has_students(cell, [None])
    assert not has_students(cell, [None, 7])
    assert has_students(cell, [])


def test_a_running_cell_s_share_is_read_off_its_metrics(cells_of):
    _, (cell,) = cells_of(settings={"training.steps": 8})
    assert share_done(cell) == 0
    finish(cell)
    assert share_done(cell) == 0.5
