import io
import os
import signal
import time
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from atkd_jax.errors import InputError
from atkd_jax.sharding import SumOverProcesses, make_mesh
from atkd_jax.training.checkpoints import Checkpoints, abstract_state_like
from atkd_jax.training.loop import LoopSettings, run_loop
from atkd_jax.training.metrics import MetricsWriter, read_metrics
from atkd_jax.training.profiling import ProfileWindow
from atkd_jax.training.progress import ProgressLine
from atkd_jax.training.state import initial_state
from atkd_jax.training.throughput import StepCosts

SETTINGS = LoopSettings(steps=6, log_every_steps=1, checkpoint_every_steps=4, max_nonfinite_steps=3, costs=StepCosts())


class Counting:
    """Batches 0, 1, 2, ...; optionally does something when one is taken."""

    def __init__(self, before=lambda number: None):
        self.number, self._before = 0, before

    def __iter__(self):
        return self

    def __next__(self):
        self._before(self.number)
        self.number += 1
        return {"number": np.array(self.number - 1)}

    def get_state(self):
        return self.number

    def set_state(self, state):
        self.number = state

    @property
    def numbers(self):
        return {"truncated": self.number}

    def metrics(self, numbers):
        return {"data/truncated_examples": float(numbers["truncated"])}


@jax.jit
def step_function(state, batch):
    """Adds the batch's number to the only weight."""
    params = {"w": state.params["w"] + batch["number"].astype(jnp.float32)}
    metrics = {"loss": params["w"], "counted_tokens": jnp.array(3), "tokens": jnp.array(4)}
    metrics |= {"skipped_in_a_row": state.skipped_in_a_row, "skipped_steps": state.skipped_steps}
    return state._replace(step=state.step + 1, params=params), metrics


def loop(tmp_path, batches, *, state=None, settings=SETTINGS, function=step_function, out=None, profile=(None, 1)):
    state = state or initial_state({"w": jnp.zeros(())}, optimizer=optax.sgd(1.0), seed=0)
    console = Console(file=out or io.StringIO(), width=150)
    with (
        Checkpoints(tmp_path / "checkpoints", keep=3) as checkpoints,
        closing(MetricsWriter(tmp_path, resumed_step=int(state.step))) as metrics,
        closing(ProgressLine(steps=settings.steps, start=0, console=console)) as progress,
    ):
        return run_loop(
            function,
            state,
            batches,
            place=lambda batch: {name: jnp.asarray(array) for name, array in batch.items()},
            add_up=SumOverProcesses(make_mesh(devices=jax.devices()[:1])).start,
            settings=settings,
            checkpoints=checkpoints,
            metrics=metrics,
            progress=progress,
            profile=ProfileWindow(tmp_path / "profile", start_step=profile[0], steps=profile[1]),
            config={"seed": 0},
        )


def restore(tmp_path, step=None):
    with Checkpoints(tmp_path / "checkpoints", keep=3) as checkpoints:
        state = initial_state({"w": jnp.zeros(())}, optimizer=optax.sgd(1.0), seed=0)
        return checkpoints.newest_step(), checkpoints.restore(abstract_state_like(state), step=step)


def test_steps_metrics_and_checkpoints(tmp_path):
    outcome = loop(tmp_path, Counting())
    assert outcome.stopped_by is None
    assert float(outcome.state.params["w"]) == 0 + 1 + 2 + 3 + 4 + 5
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in lines] == [0, 1, 3, 6, 10, 15]
    assert [line["data/truncated_examples"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(line["step_seconds"] > 0 for line in lines)
    newest, restored = restore(tmp_path)
    assert newest == 6
    assert restored.data_state == 6
    assert restore(tmp_path, step=4)[1].data_state == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_after_the_step_that_it_found(tmp_path, number):
    stop_at_third = Counting(lambda batch: os.kill(os.getpid(), number) if batch == 2 else None)
    outcome = loop(tmp_path, stop_at_third)
    assert outcome.stopped_by == number
    newest, restored = restore(tmp_path)
    assert (newest, restored.data_state, float(restored.state.params["w"])) == (3, 3, 3.0)
    batches = Counting()
    batches.set_state(restored.data_state)
    resumed = loop(tmp_path, batches, state=restored.state)
    assert float(resumed.state.params["w"]) == 15.0
    assert [line["loss"] for line in read_metrics(tmp_path)] == [0, 1, 3, 6, 10, 15]


def test_the_window_of_steps_is_recorded(tmp_path):
    loop(tmp_path, Counting(), profile=(3, 2))
    (recording,) = (tmp_path / "profile" / "plugins" / "profile").glob("*/*.xplane.pb")
    events = [
        (event.name, dict(event.stats).get("step_num"))
        for plane in jax.profiler.ProfileData.from_file(str(recording)).planes
        for line in plane.lines
        for event in line.events
        if event.name == "train"
    ]
    assert events == [("train", 3), ("train", 4)]


def test_an_end_within_the_window_writes_what_was_recorded(tmp_path):
    stop_at_third = Counting(lambda batch: os.kill(os.getpid(), signal.SIGTERM) if batch == 2 else None)
    loop(tmp_path, stop_at_third, profile=(2, 5))
    assert list((tmp_path / "profile" / "plugins" / "profile").glob("*/*.xplane.pb"))


def test_a_run_that_goes_on_after_the_window_records_nothing(tmp_path):
    state = initial_state({"w": jnp.zeros(())}, optimizer=optax.sgd(1.0), seed=0)
    loop(tmp_path, Counting(), state=state._replace(step=jnp.array(4)), profile=(3, 4))
    assert not (tmp_path / "profile").exists()


def test_the_metrics_tell_where_the_time_went(tmp_path):
    costs = StepCosts(teacher_seconds=1e9, flops_per_token=100.0, flops_per_counted_token=10.0)
    costs = costs._replace(peak_flops_per_second=1e6)
    loop(tmp_path, Counting(lambda number: time.sleep(0.05)), settings=SETTINGS._replace(costs=costs))
    lines = read_metrics(tmp_path)
    for line in lines:
        assert line["tokens_per_second"] == pytest.approx(4 / line["step_seconds"])
        assert line["mfu"] == pytest.approx((4 * 100 + 3 * 10) / line["step_seconds"] / 1e6)
        assert line["teacher_share"] == 1.0
    assert sum(line["data_wait_seconds"] for line in lines) >= 0.3
    # Step 4 is saved after its numbers were written, so that step 5 tells of it.
    assert [line["checkpoint_stall_seconds"] > 0 for line in lines] == [False] * 4 + [True, False]


def test_metrics_can_be_sparser_but_hold_the_last_step(tmp_path):
    loop(tmp_path, Counting(), settings=SETTINGS._replace(steps=5, log_every_steps=2))
    assert [line["step"] for line in read_metrics(tmp_path)] == [2, 4, 5]


def test_too_many_steps_that_are_not_finite_end_the_run(tmp_path):
    def broken(state, batch):
        state, metrics = step_function(state, batch)
        state = state._replace(skipped_in_a_row=state.skipped_in_a_row + 1)
        return state, metrics | {"loss": jnp.array(jnp.nan), "skipped_in_a_row": state.skipped_in_a_row}

    out = io.StringIO()
    with pytest.raises(
        InputError, match=r"not finite in 3 steps in a row, up to step 3; lower optimizer.learning_rate"
    ):
        loop(tmp_path, Counting(), function=broken, out=out)
    assert out.getvalue().count("the step was skipped") == 2


def test_a_batch_without_a_counted_token_is_refused(tmp_path):
    def empty(state, batch):
        state, metrics = step_function(state, batch)
        return state, metrics | {"counted_tokens": jnp.array(0)}

    with pytest.raises(InputError, match=r"the batch of step 1 has no counted token"):
        loop(tmp_path, Counting(), function=empty)


def test_an_error_of_the_data_ends_the_run(tmp_path):
    def fail(number):
        if number == 2:
            raise InputError("line 7 is no JSON")

    with pytest.raises(InputError, match=r"line 7 is no JSON"):
        loop(tmp_path, Counting(fail))
