"""From the words of a command line to an exit code."""

from __future__ import annotations

import errno
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from types import ModuleType

import absl.logging

from atkd_jax import config_fields
from atkd_jax.commands.verbs import VERBS, parse_verb
from atkd_jax.errors import InputError

# Orbax logs the traceback of whatever it raises as well, and a raised error is told in one sentence here.
absl.logging.set_verbosity(absl.logging.FATAL)
logging.getLogger("asyncio").setLevel(logging.CRITICAL)
# transformers advises at every start to install torch, which nothing here needs.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

FAULT = 1
INTERRUPTED = 130  # what a shell reports of a program that Ctrl-C ended
BAD_INPUT = 2


def main(words: Sequence[str]) -> int:
    """Runs one command line.

    Args:
        words: The command line without the program's name.

    Returns:
        The exit code: 0, or 2 after one sentence on stderr that says what is wrong with the input or the disk, or 130
        when Ctrl-C ended it. Every other exception is a fault of the program and passes through with its traceback.
    """
    if words and words[0] in ("-h", "--help"):
        print(_overview())
        return 0
    try:
        code = _code_of(words)
    except Exception:
        if _one_of_many() is None:
            raise
        traceback.print_exc()
        code = FAULT
    many = _one_of_many()
    if many is not None and code:
        many.leave_after_error(code)
    return code


def _code_of(words: Sequence[str]) -> int:
    try:
        _run(words)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Who read our output, `head` for one, has seen enough. Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        many = _one_of_many()
        print(f"{many.process_name() if many else ''}{sentence}", file=sys.stderr)
        return BAD_INPUT
    return 0


def _one_of_many() -> ModuleType | None:
    """The module that knows the other processes, where there are any; a verb that needs no jax does not load it."""
    module = sys.modules.get("atkd_jax.sharding")
    return module if module is not None and module.process_name() else None


def _run(words: Sequence[str]) -> None:
    if not words:
        raise InputError(f"launch.py: a verb is needed: {', '.join(VERBS)}; `launch.py --help` says what each does.")
    verb, *rest = words
    if verb not in VERBS:
        near = config_fields.nearest(verb, VERBS)
        hint = f"the nearest is {near}" if near else f"the verbs are {', '.join(VERBS)}"
        raise InputError(f"launch.py: unknown verb {verb}; {hint}.")
    options = parse_verb(verb, rest)
    importlib.import_module(f"atkd_jax.commands.{verb}").run(options)


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = [f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items()]
    return "\n".join(
        [
            "usage: launch.py VERB [--config configs/X.yaml] [--group.key value ...]",
            "",
            *lines,
            "",
            "`launch.py VERB --help` shows every option and every key of the config, with its default.",
        ]
    )


def _sentence(error: Exception) -> str | None:
    """What to tell the user, where the input or the disk is at fault; None where the program is."""
    if isinstance(error, InputError):
        return str(error)
    for cause in _causes(error):
        # Libraries that write files often wrap the system's error into one of their own.
        full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left on device" in str(cause):
            place = getattr(cause, "filename", None) or "a file"
            return f"launch.py: the disk is full: {place} could not be written; make room or choose another run_dir."
        if isinstance(cause, PermissionError):
            place = cause.filename or "a file"
            return f"launch.py: permission denied: {place} may not be read or written by this user."
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
