"""Examples in a data set of the Hugging Face hub, read by number; or in a folder of data files of that layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from atkd_jax.data.examples import example_from_record, require_known_keys, require_not_empty
from atkd_jax.errors import InputError


class HubExamples:
    """The examples of a split, by number."""

    def __init__(self, records: Any, *, name: str, read: Callable[..., Any]):
        self._records, self._name, self._read = records, name, read

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Any:
        return self._read(self._records[index], where=f"Example {index} of {self._name}")

    def __repr__(self) -> str:
        return f"HubExamples({self._name!r}, {len(self)} examples)"


def open_hub(name: str, *, split: str, cache_dir: Path, read: Callable[..., Any] = example_from_record) -> HubExamples:
    """Returns the examples of a split of a data set, which is downloaded first where the cache does not hold it.

    Args:
        name: `owner/name`, or `owner/name/configuration`.
        split: in the terms of the `datasets` package: `train`, `train[:90%]`, `train+test`.
        cache_dir: what is downloaded is kept in `cache_dir/hub_data`.
        read: makes an example of a record, as `example_from_record` does.

    Raises:
        InputError: `datasets` is not installed, the hub or the data set cannot be reached, it has no such split, other
            keys than `examples.KEY_SETS`, or no examples.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise InputError(
            f"The data set {name} is read from the hub by the package datasets, which is not installed: "
            "pip install 'atkd-jax[hub-data]', or give a JSONL file."
        ) from error
    owner, title, *configuration = name.split("/", 2)
    datasets.disable_progress_bars()
    try:
        records = datasets.load_dataset(
            f"{owner}/{title}", *configuration, split=split, cache_dir=str(cache_dir / "hub_data")
        )
    except Exception as error:  # a network that is not there, a name, a split: the package raises many kinds
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"The data set {name}[{split}] is none of TFDS, and the hub does not give it ({type(error).__name__}: "
            f"{reason}): look at the name and the split, or give a JSONL file."
        ) from error
    require_known_keys(list(records.column_names or []), where=f"The data set {name}")
    require_not_empty(range(len(records)), where=f"The split {split!r} of {name}")
    return HubExamples(records, name=f"{name}[{split}]", read=read)
