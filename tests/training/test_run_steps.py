import io

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rich.console import Console

from atkd_jax.config import Config
from atkd_jax.data import ArrayBatches
from atkd_jax.errors import InputError
from atkd_jax.training.metrics import read_metrics
from atkd_jax.training.run_steps import checkpoints_of, newest_state, run_steps
from atkd_jax.training.state import initial_state
from atkd_jax.training.throughput import StepCosts


class NothingToAddUp:
    def __init__(self, numbers):
        self.numbers = numbers

    def read(self):
        return self.numbers


def counting(state, batch):
    """A step that adds up what it saw."""
    params = {"seen": state.params["seen"] + batch["x"].sum()}
    zero = jnp.zeros(())
    values = {"loss": params["seen"], "tokens": jnp.ones(()), "counted_tokens": jnp.ones(()), "skipped_in_a_row": zero}
    return state._replace(step=state.step + 1, params=params), values


def run(run_dir, steps, **changes):
    """Gives the sum at the end, and what was said."""
    tree = {"run_dir": run_dir, "training": {"steps": steps}, "checkpoint": {"every_steps": 2}} | changes
    config, said, out = Config.model_validate(tree), [], io.StringIO()
    state = initial_state({"seen": jnp.zeros(())}, optimizer=optax.sgd(0.0), seed=0)
    batches = ArrayBatches({"x": np.arange(7.0, dtype=np.float32)}, batch_size=3, seed=config.seed)
    with checkpoints_of(config) as checkpoints:
        state = newest_state(config, state, batches, checkpoints, report=said.append)
        if int(state.step) < steps:
            state = run_steps(
                config,
                counting,
                state,
                batches,
                place=lambda batch: {name: jnp.asarray(array) for name, array in batch.items()},
                add_up=NothingToAddUp,
                costs=StepCosts(),
                checkpoints=checkpoints,
                console=Console(file=out, width=200),
            ).state
    return float(state.params["seen"]), said, out.getvalue()


def test_a_run_goes_on_with_the_next_batch_and_says_when_it_is_at_its_end(tmp_path):
    whole, said, out = run(tmp_path / "whole", 5)
    assert not said
    assert "step 5/5" in out
    run(tmp_path / "parts", 2)
    found, said, out = run(tmp_path / "parts", 5)
    assert found == whole > 0
    assert said == [f"Going on from step 2 of {tmp_path / 'parts'}."]
    assert [line["step"] for line in read_metrics(tmp_path / "parts")] == [1, 2, 3, 4, 5]
    found, said, out = run(tmp_path / "parts", 5)
    assert (found, out) == (whole, "")
    assert said == [f"{tmp_path / 'parts'} has already taken its 5 steps."]


def test_checkpoints_of_another_run_are_refused(tmp_path):
    run(tmp_path, 1)
    with pytest.raises(InputError, match="seed=0 then and 3 now"):
        run(tmp_path, 2, seed=3)
