"""The loop of a config's run: from its newest checkpoint to its last step, with its metrics, line and profile."""

from collections.abc import Callable, Mapping
from contextlib import closing

import jax
import numpy as np
from rich.console import Console

from atkd_jax.config import Config
from atkd_jax.data import ArrayBatches
from atkd_jax.sharding import PendingSum
from atkd_jax.training.checkpoints import Checkpoints
from atkd_jax.training.loop import Batches, LoopSettings, Outcome, run_loop
from atkd_jax.training.metrics import MetricsWriter, NoMetrics
from atkd_jax.training.profiling import ProfileWindow
from atkd_jax.training.progress import ProgressLine
from atkd_jax.training.rollout_batches import RolloutBatches
from atkd_jax.training.same_run import require_same_run
from atkd_jax.training.shared_batches import SharedBatches
from atkd_jax.training.state import TrainState
from atkd_jax.training.throughput import StepCosts


def checkpoints_of(config: Config) -> Checkpoints:
    """Opens the checkpoints of the run, to be used as a context."""
    return Checkpoints(config.run_dir / "checkpoints", keep=config.checkpoint.keep)


def newest_state(
    config: Config,
    state: TrainState,
    batches: SharedBatches | RolloutBatches | ArrayBatches,
    checkpoints: Checkpoints,
    *,
    report: Callable[[str], None],
) -> TrainState:
    """Returns the state that the run goes on from, and puts the data at the place that belongs to it.

    Args:
        config: The run.
        state: Before the first step; its memory is given up where there is a checkpoint.
        batches: At their beginning.
        checkpoints: Of the run.
        report: Is told where the run goes on, or that it is at its end.

    Raises:
        InputError: if the checkpoints are another run's, or all of them are damaged.
    """
    restored = checkpoints.restore_newest(state, report=report)
    if restored is None:
        return state
    require_same_run(restored.config, config)
    batches.set_state(restored.data_state)
    step = int(restored.state.step)
    if step < config.training.steps:
        report(f"Going on from step {step} of {config.run_dir}.")
    else:
        report(f"{config.run_dir} has already taken its {config.training.steps} steps.")
    return restored.state


def run_steps(
    config: Config,
    step_function: Callable[[TrainState, dict[str, jax.Array]], tuple[TrainState, dict[str, jax.Array]]],
    state: TrainState,
    batches: Batches,
    *,
    place: Callable[[dict[str, np.ndarray]], dict[str, jax.Array]],
    add_up: Callable[[Mapping[str, int]], PendingSum],
    costs: StepCosts,
    checkpoints: Checkpoints,
    console: Console,
) -> Outcome:
    """Runs the loop to the config's last step; what is not described here is that of `run_loop`.

    Args:
        config: Says how far and how often, and where the run is kept.
        step_function: See `run_loop`.
        state: See `run_loop`.
        batches: See `run_loop`.
        place: See `run_loop`.
        add_up: See `run_loop`.
        costs: What is known of a step before it runs.
        checkpoints: Of the run.
        console: Where the progress line goes.
    """
    start, steps = int(state.step), config.training.steps
    settings = LoopSettings(
        steps=steps,
        log_every_steps=config.training.log_every_steps,
        checkpoint_every_steps=config.checkpoint.every_steps,
        max_nonfinite_steps=config.training.max_nonfinite_steps,
        costs=costs,
    )
    writes = jax.process_index() == 0
    with (
        closing(MetricsWriter(config.run_dir, resumed_step=start) if writes else NoMetrics()) as metrics,
        closing(ProgressLine(steps=steps, start=start, console=console)) as progress,
    ):
        return run_loop(
            step_function,
            state,
            batches,
            place=place,
            add_up=add_up,
            settings=settings,
            checkpoints=checkpoints,
            metrics=metrics,
            progress=progress,
            profile=ProfileWindow(config.run_dir / "profile", **config.profile.model_dump()),
            config=config.model_dump(mode="json"),
        )
