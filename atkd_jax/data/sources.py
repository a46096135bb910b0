"""Opens a data set by the one string that a config gives for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from atkd_jax.data.examples import Examples, example_from_record
from atkd_jax.data.hub_examples import open_hub
from atkd_jax.data.jsonl import JsonLines
from atkd_jax.data.tfds_examples import is_known_to_tfds, open_tfds


def open_source(
    source: str,
    *,
    split: str,
    cache_dir: Path | str,
    report: Callable[[str], None] = print,
    read: Callable[..., Any] = example_from_record,
) -> Examples:
    """Returns the examples of a split, to be read by number.

    Args:
        source: the path of a JSONL file (whatever ends in `.jsonl` or `.json`, starts with `.`, `/` or `~`, or is
            there as a file); else a TFDS name, `python_stdlib` among them; else, where it has a `/`, the name of a data
            set on the Hugging Face hub, such as `databricks/databricks-dolly-15k`.
        split: a split, or a slice of it such as `train[:90%]`. A file has the split `train` only.
        cache_dir: where data sets are prepared; `~` stands for the home folder.
        report: is given one line when a data set was prepared.
        read: makes of a record, and of the words for where it stands, what `[i]` gives.

    Raises:
        InputError: no such file, data set or split; a line that is no JSON or lacks the keys; no examples.

    Example:
        >>> import pathlib, tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = pathlib.Path(folder.name, "pairs.jsonl")
        >>> _ = path.write_text('{"prompt": "The capital of France is", "response": " Paris."}')
        >>> open_source(str(path), split="train", cache_dir=folder.name)[0]
        Example(prompt='The capital of France is', response=' Paris.', ended=True)
        >>> folder.cleanup()
    """
    path = Path(source).expanduser()
    if path.suffix in (".jsonl", ".json") or source.startswith((".", "/", "~")) or path.is_file():
        return JsonLines(path, split=split, read=read)
    cache_dir = Path(cache_dir).expanduser()
    if "/" in source and not is_known_to_tfds(source):
        return open_hub(source, split=split, cache_dir=cache_dir, read=read)
    return open_tfds(source, split=split, cache_dir=cache_dir, report=report, read=read)
