"""What processes do with directories that they share: take turns on one host, and find out that a run's is shared."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import jax

from atkd_jax.errors import InputError
from atkd_jax.sharding import gathered


@contextmanager
def turn_on_this_host(directory: Path) -> Iterator[None]:
    """Lets the processes of one host through one after the other, where the run has several processes.

    What the first one brings into the directory, a model or a data set, is then there for the rest.
    """
    if jax.process_count() == 1:
        yield
        return
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".turn").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def require_shared_directory(directory: Path) -> None:
    """Makes the directory, where the run has several processes, and refuses one that some of them do not see.

    Every process must call it.

    Raises:
        InputError: A process sees another directory under that path, or cannot make or read it.
    """
    if jax.process_count() == 1:
        return
    (mark,) = {value for value in gathered(f".{uuid4().hex}" if jax.process_index() == 0 else None) if value}
    problem = None
    if jax.process_index() == 0:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            (directory / mark).touch()
        except OSError as error:
            problem = f"process 0 cannot write to run_dir {directory} ({error.strerror}); choose another"
    problem = gathered(problem)[0]
    try:
        # Listing, where a file's absence may have been remembered by a network's file system.
        seen = problem is not None or any(path.name == mark for path in directory.iterdir())
    except OSError:
        seen = False
    blind = [str(number) for number, sees in enumerate(gathered(seen)) if not sees]
    if jax.process_index() == 0 and problem is None:
        (directory / mark).unlink(missing_ok=True)
    if blind and problem is None:
        problem = (
            f"run_dir {directory} must be one directory for all processes, but process {', '.join(blind)} of "
            f"{jax.process_count()} sees nothing of what process 0 writes there; put it on a file system that all "
            "hosts share"
        )
    if problem:
        raise InputError(problem)
