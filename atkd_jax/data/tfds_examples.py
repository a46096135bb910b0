"""Examples in a TFDS data set, prepared as ArrayRecord and read by number, without TensorFlow."""

from __future__ import annotations

import contextlib
import difflib
import io
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atkd_jax.data.examples import example_from_record, require_known_keys, require_not_empty
from atkd_jax.data.tfds_images import without_tensorflow
from atkd_jax.errors import InputError

if TYPE_CHECKING:
    import tensorflow_datasets as tfds


class TfdsExamples:
    """The examples of a split of a prepared TFDS data set, by number; nothing is read before it is asked for."""

    def __init__(self, records: Sequence[Any], *, name: str, read: Callable[..., Any] = example_from_record):
        self._records = records
        self._name = name
        self._read = read

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Any:
        return self._read(self._records[index], where=f"Example {index} of {self._name}")

    def __repr__(self) -> str:
        return f"TfdsExamples({self._name!r}, {len(self)} examples)"


def is_known_to_tfds(name: str) -> bool:
    """Returns whether TFDS has a builder of this name, or one of its communities might; the hub's names have no `:`."""
    # Imported here, because this takes time and only names with a slash need it.
    import tensorflow_datasets as tfds

    return ":" in name or name.partition("/")[0] in tfds.list_builders(with_community_datasets=False)


def open_tfds(
    name: str,
    *,
    split: str,
    cache_dir: Path,
    report: Callable[[str], None] = print,
    read: Callable[..., Any] = example_from_record,
) -> TfdsExamples:
    """Returns the examples of a split of a data set that TFDS knows; prepares the data set first where that is due.

    Prepared data is looked for in `cache_dir/tfds`, then where TFDS keeps it by default. Where there is none as
    ArrayRecord, it is prepared in `cache_dir/tfds`, under another name first, so that a run that is killed leaves
    nothing that looks whole. `python_stdlib` is the builder of this package.

    Args:
        name: `python_stdlib`, or a name that TFDS knows, such as `databricks_dolly` or `set/config:1.0.0`.
        split: in TFDS's own terms: `train`, `train[:90%]`, `train+validation`.
        cache_dir: the folder for what is prepared.
        report: is given one line when something was prepared.
        read: makes an example of a record, as `example_from_record` does.

    Raises:
        InputError: TFDS does not know or cannot prepare the data set, it has no such split, other keys than
            `examples.KEY_SETS`, or no examples.
    """
    records, features = prepared_records(name, split=split, cache_dir=cache_dir, report=report)
    require_known_keys(list(features.keys()) if hasattr(features, "keys") else [], where=f"The data set {name}")
    require_not_empty(records, where=f"The split {split!r} of {name}")
    return TfdsExamples(records, name=f"{name}[{split}]", read=read)


def prepared_records(
    name: str, *, split: str, cache_dir: Path, report: Callable[[str], None] = print
) -> tuple[Sequence[Any], Any]:
    """Returns the records of a split by number, whatever they hold, and TFDS's description of their features.

    The arguments are those of `open_tfds`.

    Raises:
        InputError: TFDS does not know or cannot prepare the data set, or it has no such split.
    """
    builder = _prepared_builder(name, cache_dir / "tfds", report)
    try:
        records = builder.as_data_source(split)  # pyright: ignore[reportCallIssue]  TFDS's decorator hides its signature
    except (ValueError, KeyError, AssertionError) as error:
        there = ", ".join(repr(str(known)) for known in builder.info.splits)
        raise InputError(
            f"The data set {name} has no split {split!r} with examples in it: there is {there}, or a slice of them "
            "such as 'train[:90%]'."
        ) from error
    return records, builder.info.features


def _prepared_builder(name: str, folder: Path, report: Callable[[str], None]) -> tfds.core.DatasetBuilder:
    start_seconds = time.monotonic()
    with quietly():
        builder = _builder(name, folder)
        elsewhere = None if name == "python_stdlib" else _builder(name, None)
        for known in (builder, elsewhere):
            if known is not None and _can_read_by_number(known):
                return known
        failure = None
        try:
            with without_tensorflow():
                builder.download_and_prepare(file_format="array_record")
        except Exception as error:  # a builder runs its author's code, which may raise anything
            failure = error
            # Another process may have been quicker; its data is whole, because TFDS renames a folder into place.
            builder = _builder(name, folder)
        if not _can_read_by_number(builder):
            reason = _one_line(failure) if failure else f"{builder.data_dir} holds another format than ArrayRecord"
            raise InputError(f"TFDS could not prepare the data set {name} in {folder} ({reason}).") from failure
    examples = sum(info.num_examples for info in builder.info.splits.values())
    report(f"{name}: prepared {examples:,} examples in {builder.data_dir} ({time.monotonic() - start_seconds:.0f} s)")
    return builder


def _can_read_by_number(builder: tfds.core.DatasetBuilder) -> bool:
    file_format = builder.info.file_format
    return builder.is_prepared() and file_format is not None and file_format.value in ("array_record", "parquet")


def _builder(name: str, folder: Path | None) -> tfds.core.DatasetBuilder:
    """The builder of a name; a folder of None stands for the one that TFDS itself would choose."""
    # Imported here, because this takes time and only these sources need it.
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    if name == "python_stdlib":
        from atkd_jax.data.python_stdlib.python_stdlib_dataset_builder import Builder

        return Builder(data_dir=folder)
    try:
        return tfds.builder(name, data_dir=folder)
    except DatasetNotFoundError as error:
        near = difflib.get_close_matches(
            name, ["python_stdlib", *tfds.list_builders(with_community_datasets=False)], n=1
        )
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(
            f"There is no data set {name!r}{meant}: give the path of a JSONL file, 'python_stdlib', or a TFDS name."
        ) from error
    except Exception as error:  # a malformed name, an unknown config or version, a registry that cannot be reached
        raise InputError(f"TFDS cannot open the data set {name!r} ({_one_line(error)}).") from error


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keeps the progress bars, banners, log lines and warnings of TFDS off the user's screen."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
