"""SIGTERM, a full disk, a batch that makes NaN, and a clock that jumps."""

import json
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
from forked_runs import lines_of, wait_until
from safetensors.numpy import load_file, save_file

from atkd_jax.training.metrics import read_metrics

SLOW_DATA = (
    "import time; from atkd_jax.data import TrainingBatches as B; n = B.__next__\n"
    "B.__next__ = lambda self: (time.sleep(0.4), n(self))[1]"
)


def test_sigterm_saves_within_the_grace_time(launcher, tiny_run_words, whole_runs, require_same_bits, tmp_path):
    words = [*tiny_run_words, f"--run_dir={tmp_path}", "--checkpoint.every_steps=100"]
    run = launcher.start(words, before=SLOW_DATA)
    wait_until(lambda: lines_of(tmp_path) >= 2, [run])
    began = time.monotonic()
    run.signal(signal.SIGTERM)
    assert run.wait() == 128 + signal.SIGTERM, run.output
    assert time.monotonic() - began < 10  # A Spot machine and Slurm give 30 s.
    (saved,) = (path.name for path in (tmp_path / "checkpoints").iterdir())
    assert lines_of(tmp_path) == int(saved)
    assert f"Stopped by SIGTERM after step {saved} of 8" in run.output
    launcher.finish([launcher.start(words)])
    require_same_bits(tmp_path, whole_runs(1))


@pytest.fixture
def small_disk(tmp_path):
    """A disk of its own, whose size can be changed."""
    place = tmp_path / "disk"
    place.mkdir()

    def set_size(size, *options):
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", ",".join([*options, f"size={size}"]), "tmpfs", str(place)],
            capture_output=True,
        )
        if done.returncode:
            pytest.skip("only root may mount a small disk")

    set_size("1500k")
    yield place, set_size
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_fills_up_ends_in_a_sentence_and_loses_no_checkpoint(
    launcher, tiny_run_words, whole_runs, require_same_bits, small_disk
):
    disk, set_size = small_disk
    run_dir = disk / "run"
    words = [*tiny_run_words, f"--run_dir={run_dir}", "--checkpoint.keep=9"]
    run = launcher.start(words)
    assert run.wait() == 2, run.output
    assert "Traceback" not in run.output
    assert "on a disk with" in run.output or "the disk is full" in run.output
    steps = [path.name for path in (run_dir / "checkpoints").iterdir()]
    assert steps
    assert all(name.isdecimal() for name in steps)
    set_size("30m", "remount")
    run = launcher.start(words)
    launcher.finish([run])
    assert f"Going on from step {max(map(int, steps))}" in run.output
    require_same_bits(run_dir, whole_runs(1))


def test_a_batch_that_makes_nan_is_left_out_and_the_run_goes_on(
    launcher, tiny_run_words, tiny_teacher_directory, tiny_tokenizer, tmp_path
):
    teacher = tmp_path / "teacher"
    shutil.copytree(tiny_teacher_directory, teacher)
    # The teacher fails at one letter, which two of the examples hold; the student starts without that fault.
    weights = load_file(teacher / "model.safetensors")
    (letter,) = tiny_tokenizer.encode("Ω", add_special_tokens=False)[-1:]
    embedding = weights["model.embed_tokens.weight"].copy()
    weights["lm_head.weight"] = weights.get("lm_head.weight", embedding.copy())
    embedding[letter] = np.nan
    weights["model.embed_tokens.weight"] = embedding
    save_file(weights, teacher / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((teacher / "config.json").read_text())
    (teacher / "config.json").write_text(json.dumps(settings | {"tie_word_embeddings": False}))
    pairs = tmp_path / "pairs.jsonl"
    lines = [{"prompt": f"Add {n} to x.", "response": f"return x + {n}" + "Ω" * (n in (7, 23))} for n in range(160)]
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    words = [word for word in tiny_run_words if not word.startswith(("--teacher", "--student", "--data.source"))]
    words += [f"--teacher.model={teacher}", f"--data.source={pairs}", "--student.init=directory"]
    words += [f"--student.directory={tiny_teacher_directory}", f"--run_dir={tmp_path / 'run'}"]
    words += ["--objective.cross_entropy_weight=0.5"]
    run = launcher.start(words)
    launcher.finish([run])
    found = read_metrics(tmp_path / "run")
    assert len(found) == 8
    bad = [line["step"] for line in found if line["loss"] is None]
    assert 1 <= len(bad) <= 2
    assert found[-1]["skipped_steps"] == len(bad)
    assert all(
        f"step {step}: the loss or its gradient is not finite; the step was skipped" in run.output for step in bad
    )
    # The weights were left alone there, and only there.
    assert all((line["gradient_norm"] is None) == (line["step"] in bad) for line in found)


def test_clocks_that_jump_change_nothing(launcher, tiny_run_words, whole_runs, require_same_bits, tmp_path):
    # Before every batch the clock jumps by years or an hour. (Orbax fails a write, and with it the process, if the
    # clock jumps more than minutes forward in the milliseconds in which it waits for a directory to be made.)
    jumping = """
import random, time
from atkd_jax.data import TrainingBatches
original, take, chance, offset = time.time, TrainingBatches.__next__, random.Random(3), [0]
time.time = lambda: original() + offset[0]
def jump(self):
    time.sleep(0.3)
    offset[0] = chance.choice([-10**8, -3600, 0, 3600, 10**8])
    return take(self)
TrainingBatches.__next__ = jump
"""
    words = [*tiny_run_words, f"--run_dir={tmp_path}"]
    run = launcher.start(words, before=jumping)
    wait_until(lambda: lines_of(tmp_path) >= 5, [run])
    run.kill()
    # The second part believes that it is years before the first.
    back = "import time; original = time.time; time.time = lambda: original() - 3e8"
    launcher.finish([launcher.start(words, before=back)])
    require_same_bits(tmp_path, whole_runs(1))
    assert all(0 < line["step_seconds"] < 300 for line in read_metrics(tmp_path))
