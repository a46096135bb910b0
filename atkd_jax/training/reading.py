"""Reading a checkpoint, and telling a damaged one from another model's.

Orbax's own manager waits for all processes within a read, so that one which fails would leave the others waiting. Here
each process reads its part first, and then they agree on how it went.
"""

from __future__ import annotations

import errno
import gc
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from atkd_jax.errors import InputError
from atkd_jax.sharding import gathered
from atkd_jax.training.digests import array_digests, json_digest

# The system's errors that say of a file that it is not there or not what it was; all others are of the machine.
_OF_THE_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ENAMETOOLONG, errno.ELOOP)


class DamagedCheckpointError(InputError):
    """A checkpoint that cannot be read, or is not what was saved."""


def read_checkpoint(checkpoint: Path, abstract_state: Any) -> tuple[Any, dict[str, Any]]:
    """Returns a checkpoint's state and the run's record; every process must call it.

    Args:
        checkpoint: The directory of one step.
        abstract_state: The tree of `jax.ShapeDtypeStruct` with shardings to read: the state, or, as a dict from its
            fields' names, a part of it.

    Raises:
        DamagedCheckpointError: if it cannot be read, or is not what was saved.
        InputError: if it holds another model's weights, or another process's machine kept that one from reading.
        Exception: what kept this process from reading where that says nothing of the checkpoint: memory that ran out,
            a disk that does not answer, a file that may not be read.
    """
    state = run = failure = None
    difference = damage = refusal = None
    try:
        run = json.loads((checkpoint / "run" / "metadata").read_text(encoding="utf-8"))
        handler = ocp.PyTreeCheckpointHandler()
        stored = handler.metadata(epath.Path(checkpoint / "state"))
        difference = _first_difference(getattr(stored, "tree", stored), abstract_state)
        if not difference:
            partial = isinstance(abstract_state, dict)
            restore_args = ocp.checkpoint_utils.construct_restore_args(abstract_state)
            args = ocp.args.PyTreeRestore(abstract_state, restore_args=restore_args, partial_restore=partial)
            state = jax.block_until_ready(handler.restore(epath.Path(checkpoint / "state"), args=args))
    except Exception as error:  # Orbax, tensorstore and json each raise their own kinds for a damaged file.
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        if _is_of_the_machine(error):
            failure, refusal = error, reason
        else:
            damage = reason
    if damage or refusal:
        _forget_unfinished_reads()
    reports = gathered({"damage": damage, "difference": difference, "refusal": refusal})
    if failure is not None:
        raise failure
    if refusal := next((report["refusal"] for report in reports if report["refusal"]), None):
        raise InputError(
            f"checkpoint {checkpoint} could not be read by another process ({refusal}), which says nothing of the "
            "checkpoint; see to that process's machine and start again"
        )
    damage = next((report["damage"] for report in reports if report["damage"]), None)
    difference = next((report["difference"] for report in reports if report["difference"]), None)
    if damage or (state is None and not difference):
        raise DamagedCheckpointError(_damaged(checkpoint, damage or "nothing was read"))
    if difference:
        raise InputError(f"checkpoint {checkpoint} belongs to another model ({difference}); name another run_dir")
    if wrong := _first_wrong(run, array_digests(state)):
        raise DamagedCheckpointError(_damaged(checkpoint, f"{wrong} is not what was saved"))
    assert run is not None  # its digest was compared
    return state, run


def read_student_params(
    directory: Path, abstract_params: Any, *, step: int | None = None, report: Callable[[str], None] = print
) -> tuple[Any, int]:
    """Returns a checkpoint's student weights alone, and its step; the optimizer's moments stay on disk.

    Args:
        directory: A run's checkpoints.
        abstract_params: The weights' tree of `jax.ShapeDtypeStruct`; one without a sharding comes to the first device.
        step: Which checkpoint; the newest whole one if None.
        report: Is told, in a sentence, of every damaged checkpoint that is passed over.

    Raises:
        DamagedCheckpointError: if `step` is damaged, or all are.
        InputError: if there is none, or it holds another model's weights.
    """
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or here), abstract_params
    )
    require_checkpoint(directory)
    steps = _steps(directory)
    if step is not None:
        if step not in steps:
            raise InputError(f"{directory} has no checkpoint of step {step}, but of {', '.join(map(str, steps))}")
        steps = [step]
    for number in reversed(steps):
        try:
            state, _ = read_checkpoint(directory.absolute() / str(number), {"params": placed})
        except DamagedCheckpointError as problem:
            if number == steps[0]:
                raise
            report(f"{problem}.")
            continue
        return state["params"], number
    raise AssertionError("the loop above returns or raises")


def has_checkpoint(directory: Path) -> bool:
    """Returns whether there is one, whole or not; every process must call it."""
    return bool(_steps(directory))


def require_checkpoint(directory: Path) -> None:
    """Raises InputError if there is none; every process must call it."""
    if not has_checkpoint(directory):
        raise InputError(no_checkpoint(directory))


def no_checkpoint(directory: Path) -> str:
    """Returns the sentence for a directory without one."""
    return f"{directory} holds no checkpoint; train first, or name another run_dir"


def _steps(directory: Path) -> list[int]:
    found = (
        sorted(int(path.name) for path in directory.glob("*") if path.name.isdecimal()) if directory.is_dir() else []
    )
    return gathered(found)[0]


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


def _first_wrong(run: Any, arrays: dict[str, int]) -> str | None:
    """The first part of a checkpoint whose digest is not the one that was saved with it."""
    record = "the run's record"
    try:
        expected = {_path_name(path): digest for path, digest in run["digests"]["arrays"].items()}
        wrong = [path for path, digest in arrays.items() if expected.get(_path_name(path)) != digest]
        content = {"data_state": run["data_state"], "config": run["config"]}
        if run["digests"]["run"] != json_digest(content):
            wrong.append(record)
    except (KeyError, TypeError, AttributeError):
        wrong = [record]
    return wrong[0] if wrong else None


def _path_name(path: str) -> str:
    """A path in a state's tree, whether the state is itself or a dict of its fields."""
    return re.sub(r"^\['(\w+)'\]", r".\1", path)


def _is_of_the_machine(error: BaseException) -> bool:
    """Whether an error of a read, or what it came of, says nothing of the checkpoint."""
    cause: BaseException | None = error
    while cause is not None:
        # tensorstore gives the system's number in its words alone.
        told = re.search(r"os_error_code='(\d+)'", str(cause))
        number = cause.errno if isinstance(cause, OSError) else int(told[1]) if told else None
        if isinstance(cause, MemoryError) or "RESOURCE_EXHAUSTED" in str(cause):
            return True
        if number is not None and number not in _OF_THE_FILE:
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _damaged(checkpoint: Path, reason: str) -> str:
    return (
        f"checkpoint {checkpoint} cannot be read ({reason}); it is damaged: remove it to go on from the one before, "
        "or name another run_dir"
    )


def _forget_unfinished_reads() -> None:
    """Orbax leaves its other reads unfinished when one fails, and Python would print each of them as it is dropped."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        gc.collect()
    finally:
        sys.unraisablehook = hook
