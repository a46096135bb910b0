"""The device never waits for the host: steps are dispatched ahead of their numbers, and batches are made meanwhile."""

import io
import threading
import time
from contextlib import closing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from atkd_jax.data import Example, row_batches, training_batches
from atkd_jax.sharding import RowShare, SumOverProcesses, make_mesh
from atkd_jax.training.checkpoints import Checkpoints
from atkd_jax.training.loop import LoopSettings, run_loop
from atkd_jax.training.metrics import MetricsWriter, read_metrics
from atkd_jax.training.profiling import ProfileWindow
from atkd_jax.training.progress import ProgressLine
from atkd_jax.training.shared_batches import SharedBatches
from atkd_jax.training.state import initial_state
from atkd_jax.training.throughput import StepCosts

STEPS = 6
VALUES = {"counted_tokens": 3.0, "tokens": 4.0, "skipped_in_a_row": 0.0, "skipped_steps": 0.0}


class Pending:
    """A number that a device still computes; it is there when it is asked for."""

    def __init__(self, on_read):
        self._on_read = on_read

    def is_ready(self):
        return False

    def __array__(self, *_, **__):
        self._on_read()
        return np.array(1.0)


class Maker:
    """Stands where a batch is put together, in the thread that does it ahead; it takes a while and counts."""

    def __init__(self, original):
        self.seconds, self.made = 0.0, 0
        self._original, self._changed = original, threading.Condition()

    def __call__(self, *arguments, **settings):
        time.sleep(self.seconds)
        with self._changed:
            self.made += 1
            self._changed.notify_all()
        return self._original(*arguments, **settings)

    def wait_until_made(self, count, seconds=60):
        with self._changed:
            return self._changed.wait_for(lambda: self.made >= count, seconds)


@pytest.fixture
def maker(monkeypatch):
    maker = Maker(row_batches.batch_of_rows)
    monkeypatch.setattr(row_batches, "batch_of_rows", maker)
    return maker


@pytest.fixture
def batches(maker, tiny_tokenizer):
    examples = [Example(f"Add {number}.", f"return x + {number}") for number in range(64)]
    settings = {"template": "chat", "sequence_length": 64, "batch_size": 1, "packing": False}
    made = training_batches(examples, tiny_tokenizer, **settings, overlong="truncate", seed=0)
    with closing(SharedBatches(made, RowShare(0, 1, True), example_count=64, sequence_length=64)) as batches:
        yield batches


def loop(tmp_path, batches, step_function, steps=STEPS):
    console = Console(file=io.StringIO(), width=150)
    with (
        Checkpoints(tmp_path / "checkpoints", keep=3) as checkpoints,
        closing(MetricsWriter(tmp_path)) as metrics,
        closing(ProgressLine(steps=steps, start=0, console=console)) as progress,
    ):
        run_loop(
            step_function,
            initial_state({"w": jnp.zeros(())}, optimizer=optax.sgd(1.0), seed=0),
            batches,
            place=lambda batch: batch,
            add_up=SumOverProcesses(make_mesh(devices=jax.devices()[:1])).start,
            settings=LoopSettings(steps, 1, 100, 3, StepCosts()),
            checkpoints=checkpoints,
            metrics=metrics,
            progress=progress,
            profile=ProfileWindow(tmp_path / "profile", start_step=None, steps=1),
            config={},
        )


def test_a_step_is_dispatched_before_the_numbers_of_the_last_one_are_read(tmp_path, batches):
    events = []

    def step_function(state, batch):
        number = sum(kind == "dispatched" for kind, _ in events) + 1
        events.append(("dispatched", number))
        return state, VALUES | {"loss": Pending(lambda: events.append(("read", number)))}

    loop(tmp_path, batches, step_function, steps=4)
    order = [(kind, number) for number in (2, 3, 4) for kind, number in (("dispatched", number), ("read", number - 1))]
    assert events == [("dispatched", 1), *order, ("read", 4)]


def test_the_next_batches_are_made_while_a_step_computes(tmp_path, batches, maker):
    behind = []

    def step_function(state, batch):
        # The step does not end before the next batch was made.
        behind.append(maker.wait_until_made(len(behind) + 2))
        return state, VALUES | {"loss": Pending(lambda: None)}

    loop(tmp_path, batches, step_function)
    assert behind == [True] * STEPS


def test_data_that_takes_four_fifths_of_a_step_costs_less_than_a_seventh_of_it(tmp_path, batches, maker):
    step_seconds = 0.25
    maker.seconds = 0.8 * step_seconds

    def step_function(state, batch):
        time.sleep(step_seconds)
        return state, VALUES | {"loss": Pending(lambda: None)}

    loop(tmp_path, batches, step_function)
    lines = read_metrics(tmp_path)[1:]  # Nothing could be made ahead of the first.
    assert sum(line["data_wait_seconds"] for line in lines) < 0.15 * sum(line["step_seconds"] for line in lines)
