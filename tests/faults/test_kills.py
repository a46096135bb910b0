"""Runs that are killed without warning end with the same bits as one that was not, and lose little."""

import random
import signal
import time

import pytest
from forked_runs import lines_of, wait_until

EVERY_STEPS = 2


def newest(run_dir):
    """The step of the newest checkpoint that has its final name."""
    folder = run_dir / "checkpoints"
    return (
        max((int(path.name) for path in folder.iterdir() if path.name.isdecimal()), default=0) if folder.is_dir() else 0
    )


def being_written(run_dir):
    return any((run_dir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def require_little_lost(run_dir):
    """At most the steps since the checkpoint before the one that was being written."""
    assert lines_of(run_dir) - newest(run_dir) <= 2 * EVERY_STEPS


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_kills_at_random_moments(launcher, tiny_run_words, whole_runs, require_same_bits, tmp_path, kills):
    chance = random.Random(kills)
    run_dir, lasted, killed = tmp_path / "first", 8.0, 0
    for number in range(4 * kills):
        began = time.monotonic()
        run = launcher.start([*tiny_run_words, f"--run_dir={run_dir}"])
        # From before the first import to after the last step; runs that end by themselves tell how long that is.
        limit = chance.uniform(0.0, 1.0) * lasted
        while run.ended() is None and time.monotonic() - began < limit:
            time.sleep(0.002)
        run.kill()
        if run.code == 0:  # Not killed, nor could it be again: another run begins.
            lasted = time.monotonic() - began
            require_same_bits(run_dir, whole_runs(1))
            run_dir = tmp_path / str(number)
            continue
        assert run.code == -signal.SIGKILL, run.output
        require_little_lost(run_dir)
        killed += 1
        if killed == kills:
            break
    assert killed == kills
    launcher.finish([launcher.start([*tiny_run_words, f"--run_dir={run_dir}"])])
    require_same_bits(run_dir, whole_runs(1))


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_kills_in_the_middle_of_a_checkpoint(
    launcher, tiny_run_words, whole_runs, require_same_bits, tmp_path, processes
):
    words = [*tiny_run_words, f"--run_dir={tmp_path}"]
    # The write takes a while, as that of a real model does.
    slow = "import time, orbax.checkpoint as ocp\nfrom orbax.checkpoint._src.path import atomicity\n"
    slow += "original = atomicity.AtomicRenameTemporaryPath.finalize\n"
    slow += "async def finalize(*a, **k):\n  time.sleep(1)\n  return await original(*a, **k)\n"
    slow += "atomicity.AtomicRenameTemporaryPath.finalize = finalize"
    start = (
        (lambda: [launcher.start(words, before=slow)])
        if processes == 1
        else (lambda: launcher.start_many(words, processes, before=slow))
    )
    for _ in range(2):
        runs = start()
        before = newest(tmp_path)
        wait_until(lambda: being_written(tmp_path) and newest(tmp_path) >= before, runs)  # noqa: B023  called at once
        for run in runs:
            run.kill()
        assert being_written(tmp_path)
        require_little_lost(tmp_path)
    runs = [launcher.start(words)] if processes == 1 else launcher.start_many(words, processes)
    launcher.finish(runs)
    assert not being_written(tmp_path)
    require_same_bits(tmp_path, whole_runs(processes))
