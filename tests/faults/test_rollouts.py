"""Runs that write their own text are killed without warning, and write it again."""

import pytest
from forked_runs import lines_of, wait_until

from atkd_jax.training.metrics import read_metrics

# The student's text and the teacher's, of which old ones are read again from a buffer, in two micro-batches.
OWN_TEXT = [
    "--objective.name=skewed_forward_kl",
    "--objective.adaptive=true",
    "--data.packing=false",
    "--rollout.author=mixed",
    "--rollout.fraction=0.6",
    "--rollout.buffer_size=6",
    "--rollout.max_new_tokens=8",
]


@pytest.mark.parametrize(
    "processes", [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow)]
)
def test_a_killed_run_writes_the_same_text_again(
    launcher, tiny_run_words, whole_runs, require_same_bits, require_same_curve, tmp_path, processes
):
    words = [*tiny_run_words, *OWN_TEXT, f"--run_dir={tmp_path}"]

    def start():
        return [launcher.start(words)] if processes == 1 else launcher.start_many(words, processes)

    for steps in (3, 6):  # Before the buffer's first old text is read, and after.
        runs = start()
        wait_until(lambda: lines_of(tmp_path) >= steps, runs)  # noqa: B023  called at once
        for each in runs:
            each.kill()
    launcher.finish(start())
    require_same_bits(tmp_path, whole_runs(processes, words=OWN_TEXT))
    assert sum(line["rollout/buffered_rows"] for line in read_metrics(tmp_path)) > 0
    if processes > 1:
        require_same_curve(tmp_path, whole_runs(1, words=OWN_TEXT))
