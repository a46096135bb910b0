import json
import signal
import time

import pytest
from forked_runs import free_port, lines_of, wait_until


def begin_and_kill(launcher, words, run_dir, processes, *, after_lines=5, **arguments):
    """Starts a run of several processes and kills all of them when so many steps were taken."""
    runs = launcher.start_many(words, processes, **arguments)
    wait_until(lambda: lines_of(run_dir) >= after_lines, runs)
    for run in runs:
        run.kill()


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_a_run_that_was_killed_ends_with_the_bits_of_one_that_was_not(
    launcher, tiny_run_words, whole_runs, require_same_bits, require_same_curve, tmp_path, processes
):
    words = [*tiny_run_words, f"--run_dir={tmp_path}"]
    begin_and_kill(launcher, words, tmp_path, processes)
    launcher.finish(launcher.start_many(words, processes))
    require_same_bits(tmp_path, whole_runs(processes))
    require_same_curve(tmp_path, whole_runs(1))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"processes": 2}, {"processes": 1, "devices": 2, "words": ["--mesh.fsdp=2"]}),
        pytest.param(
            {"processes": 1, "devices": 2},
            {"processes": 4, "words": ["--mesh.tensor=2"]},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"processes": 4, "words": ["--mesh.fsdp=2"]},
            {"processes": 2, "devices": 2, "words": ["--mesh.fsdp=2", "--mesh.tensor=2"]},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_run_goes_on_with_other_processes_and_another_mesh(
    launcher, tiny_run_words, whole_runs, require_same_curve, tmp_path, before, after
):
    for shape in (before, after):
        words = [*tiny_run_words, *shape.get("words", []), f"--run_dir={tmp_path}"]
        devices = shape.get("devices", 1)
        if shape["processes"] == 1:
            runs = [launcher.start(words, devices=devices)]
        else:
            runs = launcher.start_many(words, shape["processes"], devices=devices)
        if shape is before:
            wait_until(lambda: lines_of(tmp_path) >= 5, runs)
            for run in runs:
                run.kill()
        else:
            launcher.finish(runs)
            assert "Going on from step 4" in runs[0].output or "Going on from step 2" in runs[0].output
    require_same_curve(tmp_path, whole_runs(1))


def test_sigterm_to_one_process_stops_all_of_them_after_one_step(
    launcher, tiny_run_words, whole_runs, require_same_bits, tmp_path
):
    words = [*tiny_run_words, f"--run_dir={tmp_path}", "--checkpoint.every_steps=100"]
    # A step that takes a while, as on a real machine, so that the signal finds the run before its end.
    slow = "import time; from atkd_jax.data import TrainingBatches as B; n = B.__next__\n"
    slow += "B.__next__ = lambda self: (time.sleep(0.5), n(self))[1]"
    runs = launcher.start_many(words, 2, before=slow)
    wait_until(lambda: lines_of(tmp_path) >= 1, runs)
    began = time.monotonic()
    runs[1].signal(signal.SIGTERM)
    launcher.finish(runs, expected=128 + signal.SIGTERM)
    assert time.monotonic() - began < 20
    (saved,) = (path.name for path in (tmp_path / "checkpoints").iterdir())
    assert lines_of(tmp_path) == int(saved) < 8
    assert f"Stopped by SIGTERM after step {saved} of 8" in runs[0].output
    assert runs[1].output.count("Stopped") == 0
    launcher.finish(launcher.start_many(words, 2))
    require_same_bits(tmp_path, whole_runs(2))


def test_a_host_that_never_joins_is_named(launcher, tiny_run_words, tmp_path):
    words = [*tiny_run_words, f"--run_dir={tmp_path / 'run'}"]
    runs = launcher.start_many(words, 4, started=[0, 2], timeout_seconds=3)
    launcher.finish(runs, expected=2)
    for run in runs:
        assert "2 of 4 processes did not join within 3 s: missing 1, 3 (there are 0 on" in run.output
        assert "Traceback" not in run.output
    assert not (tmp_path / "run").exists()


def test_processes_that_see_other_directories_are_refused(launcher, tiny_run_words, tmp_path):
    # Each process a directory of its own under one path, as on hosts that share no file system.
    links = "import os, sys; from pathlib import Path; import atkd_jax.training.shared_directory as s\n"
    links += "original = s.require_shared_directory\nimport atkd_jax.training.run as r, jax\n"
    links += "r.require_shared_directory = lambda path: original(path.with_name(f'{path.name}{jax.process_index()}'))"
    words = [*tiny_run_words, f"--run_dir={tmp_path / 'run'}"]
    (tmp_path / "run1").mkdir()
    runs = launcher.start_many(words, 2, before=links)
    launcher.finish(runs, expected=2)
    for number, run in enumerate(runs):
        assert f"process {number}: run_dir" in run.output
        assert "process 1 of 2 sees nothing of what process 0 writes there; put it on a file" in run.output
        assert "Traceback" not in run.output


def test_processes_with_another_config_are_refused(launcher, tiny_run_words, tmp_path):
    address = f"--distributed.coordinator_address=127.0.0.1:{free_port()}"
    runs = [
        launcher.start(
            [
                *tiny_run_words,
                f"--run_dir={tmp_path}",
                address,
                "--distributed.num_processes=2",
                f"--distributed.process_id={number}",
                f"--seed={number}",
            ]
        )
        for number in range(2)
    ]
    launcher.finish(runs, expected=2)
    assert all("has another config than process 0" in run.output for run in runs)


@pytest.mark.slow
def test_evaluation_by_two_processes_is_that_by_one(launcher, tiny_run_words, whole_runs, tmp_path):
    found = []
    for processes in (1, 2):
        run_dir = whole_runs(1)
        words = ["evaluate", *tiny_run_words[1:], f"--run_dir={run_dir}", "--evaluation.split=train"]
        words.append("--evaluation.sample_tokens=4")
        (run_dir / "evaluation.json").unlink(missing_ok=True)
        if processes == 1:
            launcher.finish([launcher.start(words)])
        else:
            launcher.finish(launcher.start_many(words, 2))
        found.append(json.loads((run_dir / "evaluation.json").read_text()))
    one, two = found
    assert one["samples"] == two["samples"]
    assert one["counted_tokens"] == two["counted_tokens"]
    for name, scores in one["models"].items():
        assert two["models"][name] == pytest.approx(scores, rel=1e-5, abs=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["scratch", "directory"])
def test_students_that_are_not_pruned_start_alike_on_every_process(
    launcher, tiny_run_words, tiny_teacher_directory, require_same_curve, tmp_path, start
):
    own = {"scratch": ["--student.size=0.3m"], "directory": [f"--student.directory={tiny_teacher_directory}"]}
    words = [word for word in tiny_run_words if not word.startswith("--student")]
    words += [f"--student.init={start}", "--student.layers=none", *own[start]]
    launcher.finish([launcher.start([*words, f"--run_dir={tmp_path / 'one'}"])])
    launcher.finish(launcher.start_many([*words, "--mesh.fsdp=2", f"--run_dir={tmp_path / 'two'}"], 2))
    require_same_curve(tmp_path / "one", tmp_path / "two")
