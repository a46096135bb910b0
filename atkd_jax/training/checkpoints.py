"""Orbax checkpoints of a run: state, place in the data, and resolved config, saved together or not at all."""

import gc
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from atkd_jax.errors import InputError
from atkd_jax.training.digests import array_digests, json_digest
from atkd_jax.training.state import TrainState


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
            max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=True
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

        Raises:
            InputError: if the disk has no room for it.
        """
        if step in self._manager.all_steps():
            return
        self.require_room(state)
        run = {"data_state": data_state, "config": config}
        run["digests"] = {"arrays": array_digests(state), "run": json_digest(run)}
        arguments = ocp.args.Composite(state=ocp.args.StandardSave(state), run=ocp.args.JsonSave(run))
        self._manager.save(step, args=arguments)

    def require_room(self, state: TrainState) -> None:
        """Raises InputError if the disk cannot hold one more checkpoint of this state."""
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise InputError(
                f"{self.directory} is on a disk with {free / 1e6:,.1f} MB free, and a checkpoint takes up to "
                f"{needed / 1e6:,.1f} MB; make room, or name another run_dir"
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
        arguments = ocp.args.Composite(state=ocp.args.StandardRestore(abstract_state), run=ocp.args.JsonRestore())
        items = _restored(self._manager, self.directory, step, arguments, abstract_state)
        state, run = items["state"], items["run"]
        _compare_digests(self.directory / str(step), run, array_digests(state))
        return Restored(state, run["data_state"], run["config"])


def abstract_state_like(state: TrainState) -> TrainState:
    """Returns the tree of shapes, types and shardings of a state, for `Checkpoints.restore`."""
    return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding), state)


def read_student_params(directory: Path, abstract_params: Any, *, step: int | None = None) -> tuple[Any, int]:
    """Returns a checkpoint's student weights alone, and its step; the optimizer's moments stay on disk.

    Args:
        directory: A run's checkpoints.
        abstract_params: The weights' tree of `jax.ShapeDtypeStruct`, with or without shardings.
        step: Which checkpoint; the newest if None.

    Raises:
        InputError: as `Checkpoints.restore`.
    """
    if not directory.is_dir():
        raise InputError(f"{directory} holds no checkpoint; train first, or name another run_dir")
    handlers = {"state": ocp.PyTreeCheckpointHandler(), "run": ocp.JsonCheckpointHandler()}
    options = ocp.CheckpointManagerOptions(create=False)
    with ocp.CheckpointManager(directory.absolute(), options=options, item_handlers=handlers) as manager:
        step = manager.latest_step() if step is None else step
        item = {"params": abstract_params}
        restore_args = ocp.checkpoint_utils.construct_restore_args(item)
        arguments = ocp.args.Composite(
            state=ocp.args.PyTreeRestore(item, restore_args=restore_args, partial_restore=True),
            run=ocp.args.JsonRestore(),
        )
        items = _restored(manager, directory, step, arguments, item)
    digests = {f".params{path}": digest for path, digest in array_digests(items["state"]["params"]).items()}
    _compare_digests(directory / str(step), items["run"], digests)
    return items["state"]["params"], step


def _restored(manager: ocp.CheckpointManager, directory: Path, step: int | None, arguments: Any, abstract: Any) -> Any:
    if step is None:
        raise InputError(f"{directory} holds no checkpoint; train first, or name another run_dir")
    checkpoint = directory / str(step)
    difference = damage = items = None
    try:
        stored = manager.item_metadata(step)["state"]
        difference = _first_difference(getattr(stored, "tree", stored), abstract)
        items = None if difference else manager.restore(step, args=arguments)
    except Exception as error:  # Orbax, tensorstore and json each raise their own kinds for a damaged file.
        damage = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
    if damage:
        _forget_unfinished_reads()
        raise InputError(_damaged(checkpoint, damage))
    if difference:
        raise InputError(f"checkpoint {checkpoint} belongs to another model ({difference}); name another run_dir")
    return items


def _first_difference(stored: Any, abstract: Any) -> str | None:
    """Compares names and shapes before anything is read; `abstract` may be a part of what is stored."""
    shapes = {_plain(path): leaf.shape for path, leaf in jax.tree_util.tree_flatten_with_path(stored)[0]}
    for path, leaf in jax.tree_util.tree_flatten_with_path(abstract)[0]:
        name = _plain(path)
        if name not in shapes:
            return f"it has no {'.'.join(name)}"
        if tuple(shapes[name]) != tuple(leaf.shape):
            return f"its {'.'.join(name)} is {tuple(shapes[name])}, the config's {tuple(leaf.shape)}"
    return None


def _plain(path: Any) -> tuple[str, ...]:
    """The names along a path, whether the tree kept its own classes or was stored as dicts."""
    return tuple(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def _compare_digests(checkpoint: Path, run: Any, arrays: dict[str, int]) -> None:
    try:
        expected = run["digests"]
        content = {"data_state": run["data_state"], "config": run["config"]}
        wrong = [path for path, digest in arrays.items() if expected["arrays"].get(path) != digest]
        if expected["run"] != json_digest(content):
            wrong.append("the run's record")
    except (KeyError, TypeError, AttributeError):
        wrong = ["the run's record"]
    if wrong:
        raise InputError(_damaged(checkpoint, f"{wrong[0]} is not what was saved"))


def _damaged(checkpoint: Path, reason: str) -> str:
    return (
        f"checkpoint {checkpoint} cannot be read ({reason}); it is damaged: remove it to go on from the one before, "
        "or name another run_dir"
    )


def _remove_unfinished(directory: Path) -> None:
    """What a write that failed left behind, on a disk that may be full."""
    for path in directory.glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(path, ignore_errors=True)


def _forget_unfinished_reads() -> None:
    """Orbax leaves its other reads unfinished when one fails, and Python would print each of them as it is dropped."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        gc.collect()
    finally:
        sys.unraisablehook = hook
