import dataclasses

import pytest

from atkd_jax.analysis.scheduling import Progress, run_cells


class Fake:
    """A cell that works for some polls and ends with a code."""

    def __init__(self, polls=1, code=0):
        self.left, self.code, self.stopped = polls, code, False

    def poll(self):
        self.left -= 1
        return self.code if self.left < 0 else None

    def stop(self):
        self.stopped, self.code, self.left = True, 143, 0


@pytest.fixture
def run(cells_of):
    """Runs the cells of a study by fakes; gives the progress, what was started where, and all progress lines."""

    def go(tree, *, codes=None, done=(), processes=1, stop_after=None, polls=1, **more):
        _, cells = cells_of(**tree)
        started, lines, at_once = [], [], []

        def start(cell, slot):
            started.append((cell.key, slot))
            return Fake(polls, (codes or {}).get(cell.key, 0))

        def on_change(progress):
            lines.append(progress.sentence())
            at_once.append(len(progress.running))

        progress = run_cells(
            cells, done=dict.fromkeys(done), start=start, processes=processes, on_change=on_change, poll_seconds=0,
            is_stopped=lambda: stop_after is not None and len(started) >= stop_after, **more,
        )  # fmt: skip
        return progress, started, lines, max(at_once)

    return go


CELLS = {"cells": {name: {} for name in "abcd"}}


def test_every_cell_runs_once_and_as_many_at_a_time_as_there_is_room_for(run):
    progress, started, lines, most = run(CELLS, processes=2)
    assert [key for key, _ in started] == ["a/0", "b/0", "c/0", "d/0"]
    assert (most, {slot for _, slot in started}) == (2, {0, 1})
    assert (sorted(progress.done), progress.failed) == (["a/0", "b/0", "c/0", "d/0"], {})
    assert lines[-1] == "study: 4 of 4 cells done"


def test_only_one_runs_where_there_is_room_for_no_other(run):
    asked = []
    progress, started, _, most = run(CELLS, processes=3, has_room=lambda running: asked.append(len(running)))
    assert [key for key, _ in started] == ["a/0", "b/0", "c/0", "d/0"]
    assert (most, set(asked), len(progress.done)) == (1, {1}, 4)


def test_what_has_finished_is_not_run_again(run):
    progress, started, _, _ = run(CELLS, done=["a/0", "c/0"])
    assert [key for key, _ in started] == ["b/0", "d/0"]
    assert len(progress.done) == 4


def test_a_failed_cell_stops_only_those_that_need_it(run):
    needs = {"settings": {"teacher.model": "cell:t"}}
    tree = {"prepared": {"t": {}}, "cells": {"a": needs, "b": {}, "c": needs}}
    progress, started, lines, _ = run(tree, codes={"t/0": 2}, processes=2)
    assert [key for key, _ in started] == ["t/0", "b/0"]
    assert progress.failed == {
        "t/0": "it ended with exit code 2",
        "a/0": "it needs t/0, which failed",
        "c/0": "it needs t/0, which failed",
    }
    assert lines[-1] == "study: 1 of 4 cells done, 3 failed"


def test_what_is_needed_is_waited_for(run):
    tree = {"prepared": {"t": {}}, "cells": {"a": {"settings": {"teacher.model": "cell:t"}}, "b": {}}}
    _, started, _, _ = run(tree, processes=3, polls=3)
    assert [key for key, _ in started] == ["t/0", "b/0", "a/0"]


def test_a_stop_lets_what_runs_end_and_starts_nothing_new(run):
    progress, started, _, _ = run(CELLS, processes=2, stop_after=2, polls=50)
    assert len(started) == 2
    assert (progress.done, progress.failed, progress.running) == (set(), {}, set())


def test_what_an_earlier_sitting_did_of_a_cell_is_no_work_of_this_one(run):
    progress, *_ = run(CELLS, done=["a/0"], share_done=lambda cell: 0.75 if cell.name == "b" else 0.0)
    assert (progress.finished, progress.earlier) == (3, 0.75)


def test_the_time_left_is_that_of_the_work_left():
    progress = Progress(10, done={"a", "b", "c"}, failed={"d": ""}, running={"e"}, finished=1, partly=0.5, seconds=30)
    assert progress.seconds_left == pytest.approx(30 / 1.5 * 5.5)
    assert progress.sentence() == "study: 3 of 10 cells done, 1 failed, running e, left 0:01:50"
    # Of the 1.5 cells half a one had been done in an earlier sitting, which these 30 seconds did not take.
    assert dataclasses.replace(progress, earlier=0.5).seconds_left == pytest.approx(30 / 1.0 * 5.5)
    assert Progress(10, running={"e"}).sentence() == "study: 0 of 10 cells done, running e"
