"""Orbax checkpoints of a run: state, place in the data, and resolved config, saved together or not at all."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from atkd_jax.errors import InputError
from atkd_jax.training.state import TrainState


class Restored(NamedTuple):
    """One checkpoint as it was read."""

    state: TrainState
    data_state: Any
    config: dict[str, Any]


class Checkpoints:
    """The checkpoints in one directory. Use it as a context; leaving it waits for what is being written.

    A checkpoint is written in the background into a temporary directory, which takes its final name when it is whole.
    """

    def __init__(self, directory: Path, *, keep: int):
        """Opens the directory, which is made if it is not there; only the `keep` newest checkpoints stay in it."""
        self.directory = directory.absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=True
        )
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=options,
            item_handlers={
                "state": ocp.StandardCheckpointHandler(),
                "data": ocp.JsonCheckpointHandler(),
                "config": ocp.JsonCheckpointHandler(),
            },
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def newest_step(self) -> int | None:
        """Returns the step of the newest whole checkpoint, None if there is none."""
        return self._manager.latest_step()

    def save(self, state: TrainState, *, step: int, data_state: Any, config: dict[str, Any]) -> None:
        """Starts to write a checkpoint and returns; a step that is already there is left alone.

        Args:
          state: The run's state after `step` steps.
          step: Steps taken.
          data_state: The data iterator's position, as JSON has it.
          config: The resolved config, as JSON has it.
        """
        if step in self._manager.all_steps():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                data=ocp.args.JsonSave({"iterator": data_state}),
                config=ocp.args.JsonSave(config),
            ),
        )

    def wait(self) -> None:
        """Returns when what was started is on disk, and raises what went wrong on the way."""
        self._manager.wait_until_finished()

    def restore(self, abstract_state: TrainState, *, step: int | None = None) -> Restored:
        """Reads a checkpoint.

        Args:
          abstract_state: The state's tree of `jax.ShapeDtypeStruct`, with the shardings that the arrays shall have.
          step: Which one; the newest if None.

        Raises:
          InputError: if there is none, or it cannot be read, or it holds another model's weights.
        """
        step = self.newest_step() if step is None else step
        if step is None:
            raise InputError(f"{self.directory} holds no checkpoint; train first, or name another run_dir")
        try:
            items = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(abstract_state),
                    data=ocp.args.JsonRestore(),
                    config=ocp.args.JsonRestore(),
                ),
            )
        except Exception as error:  # Orbax, tensorstore and json each raise their own kinds for a damaged file.
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(
                f"checkpoint {self.directory / str(step)} cannot be read ({reason[:300]}); it is damaged or belongs to "
                "another model: remove it to go on from the one before, or name another run_dir"
            ) from error
        return Restored(items["state"], items["data"]["iterator"], items["config"])


def abstract_state_like(state: TrainState) -> TrainState:
    """Returns the tree of shapes, types and shardings of a state, for `Checkpoints.restore`."""
    return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding), state)
