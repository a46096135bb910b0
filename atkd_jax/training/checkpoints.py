"""Orbax checkpoints of a run: state, place in the data, and resolved config, saved together or not at all."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from atkd_jax.errors import InputError
from atkd_jax.sharding import gathered
from atkd_jax.training.digests import array_digests, json_digest
from atkd_jax.training.reading import DamagedCheckpointError, no_checkpoint, read_checkpoint
from atkd_jax.training.state import TrainState

# Orbax reads the wall clock, and would take one that jumps forward for a write that takes too long.
_NO_TIMEOUT_SECONDS = 10 * 365 * 86_400


class Restored(NamedTuple):
    """One checkpoint as it was read."""

    state: TrainState
    data_state: Any
    config: dict[str, Any]


class Checkpoints:
    """The checkpoints in one directory. Use it as a context; leaving it waits for what is being written.

    A checkpoint is written in the background into a temporary directory, which takes its final name when it is whole.
    Beside the arrays stand their digests, which are compared when it is read.
    """

    def __init__(self, directory: Path, *, keep: int):
        """Opens the directory, which is made if it is not there; only the `keep` newest checkpoints stay in it."""
        self.directory = directory.absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
            async_options=ocp.AsyncOptions(timeout_secs=_NO_TIMEOUT_SECONDS),
        )
        handlers = {"state": ocp.StandardCheckpointHandler(), "run": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        failed = True
        try:
            self._manager.close()
            failed = False
        except Exception:
            if kind is None:  # Else the error on its way out is the one to be told.
                raise
        finally:
            if failed or kind is not None:
                _remove_unfinished(self.directory)

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, ascending; the same on every process, and each must call it."""
        return gathered(sorted(self._manager.all_steps()))[0]

    def newest_step(self) -> int | None:
        """Returns the step of the newest checkpoint, None if there is none."""
        return max(self.steps(), default=None)

    def save(self, state: TrainState, *, step: int, data_state: Any, config: dict[str, Any]) -> None:
        """Starts to write a checkpoint and returns; a step that is already there is left alone.

        Args:
            state: The run's state after `step` steps.
            step: Steps taken.
            data_state: The data iterator's position, as JSON has it.
            config: The resolved config, as JSON has it.

        Raises:
            InputError: if the disk has no room for it.
        """
        if step in self.steps():
            return
        self.require_room(state)
        run = {"data_state": data_state, "config": config}
        run["digests"] = {"arrays": array_digests(state), "run": json_digest(run)}
        arguments = ocp.args.Composite(state=ocp.args.StandardSave(state), run=ocp.args.JsonSave(run))
        self._manager.save(step, args=arguments)

    def require_room(self, state: TrainState) -> None:
        """Raises InputError if the disk cannot hold one more checkpoint of this state; every process must call it."""
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = gathered(shutil.disk_usage(self.directory).free)[0]
        if free < needed:
            raise InputError(
                f"{self.directory} is on a disk with {free / 1e6:,.1f} MB free, and a checkpoint takes up to "
                f"{needed / 1e6:,.1f} MB; make room, or name another run_dir"
            )

    def wait(self) -> None:
        """Returns when what was started is on disk, and raises what went wrong on the way."""
        self._manager.wait_until_finished()

    def restore(self, abstract_state: TrainState, *, step: int | None = None) -> Restored:
        """Reads a checkpoint; every process must call it.

        Args:
            abstract_state: The state's tree of `jax.ShapeDtypeStruct`, with the shardings that the arrays shall have.
            step: Which one; the newest if None.

        Raises:
            DamagedCheckpointError: if it cannot be read, or is not what was saved.
            InputError: if there is none, or it holds another model's weights.
        """
        step = self.newest_step() if step is None else step
        if step is None:
            raise InputError(no_checkpoint(self.directory))
        state, run = read_checkpoint(self.directory / str(step), abstract_state)
        return Restored(state, run["data_state"], run["config"])

    def restore_newest(self, state: TrainState, *, report: Callable[[str], None]) -> Restored | None:
        """Reads the newest whole checkpoint; every process must call it.

        Damaged ones are reported and put aside, as `STEP.damaged`, so that the run can write that step again.

        Args:
            state: The state before the first step, whose shapes and shardings the one that is read has. Its memory is
                given up for that one where there is a checkpoint.
            report: Is told, in a sentence, of every damaged checkpoint.

        Returns:
            What was read; None if there is no checkpoint at all.

        Raises:
            InputError: if every checkpoint is damaged, or the newest whole one holds another model's weights.
        """
        steps = self.steps()
        abstract = abstract_state_like(state)
        if steps:
            jax.tree.map(lambda array: array.delete(), state)
        damaged = []
        for step in reversed(steps):
            try:
                restored = self.restore(abstract, step=step)
            except DamagedCheckpointError as problem:
                report(f"{problem}.")
                damaged.append(step)
                continue
            self._put_aside(damaged)
            return restored
        if damaged:
            raise InputError(
                f"every checkpoint in {self.directory} is damaged ({', '.join(map(str, damaged))}); remove the "
                "directory to start anew, or name another run_dir"
            )
        return None

    def _put_aside(self, steps: Sequence[int]) -> None:
        if not steps:
            return
        if jax.process_index() == 0:
            for step in steps:
                aside = self.directory / f"{step}.damaged"
                shutil.rmtree(aside, ignore_errors=True)
                (self.directory / str(step)).rename(aside)
        gathered(None)  # No process looks before the last one is put aside.
        self._manager.reload()


def abstract_state_like(state: TrainState) -> TrainState:
    """Returns the tree of shapes, types and shardings of a state, for `Checkpoints.restore`."""
    return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding), state)


def _remove_unfinished(directory: Path) -> None:
    """What a write that failed left behind, on a disk that may be full."""
    for path in directory.glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(path, ignore_errors=True)
