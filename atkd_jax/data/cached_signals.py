"""The teacher's records as arrays beside those of a batch, at the positions that predict the targets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from atkd_jax.data.encoding import EncodedExample
from atkd_jax.data.record_shards import RecordReader, Shards
from atkd_jax.data.signal_format import SignalFormat
from atkd_jax.errors import InputError

# In a batch, what the teacher says is named so.
PREFIX = "teacher/"


class CachedSignals:
    """Reads what a batch's rows need; see `SignalFormat` for the arrays."""

    def __init__(self, shards: Shards, form: SignalFormat, *, sequence_length: int):
        """Opens no file yet.

        Args:
            shards: The cache's files.
            form: What the records hold.
            sequence_length: Tokens in a row.
        """
        self._reader, self._form, self._length = RecordReader(shards), form, sequence_length
        self._examples = shards.examples

    def __call__(self, rows: Sequence[Sequence[EncodedExample]]) -> dict[str, np.ndarray]:
        """Returns the arrays `[rows, sequence_length, ...]` of rows of examples, which stand in them from the left.

        Where no target is predicted they are 0, or -1 and -inf where that means that nothing is there.

        Raises:
            InputError: a record is missing, damaged, or of other tokens.
        """
        blank = {"ids": -1, "tail_ids": -1, "log_probs": -np.inf}
        arrays = {
            name: np.full((len(rows), self._length, *shape), blank.get(name, 0), dtype)
            for name, (shape, dtype) in self._form.shapes().items()
        }
        for row, examples in enumerate(rows):
            start = 0
            for example in examples:
                # A token is predicted by the position before it.
                places = start + np.flatnonzero(example.loss_mask) - 1
                for name, values in self._of_example(example).items():
                    arrays[name][row, places] = values
                start += len(example.tokens)
        return {PREFIX + name: array for name, array in arrays.items()}

    def _of_example(self, example: EncodedExample) -> dict[str, np.ndarray]:
        record = self._reader[example.number]
        if record.tokens_checksum != example.checksum:
            raise InputError(
                f"Example {example.number} of the data must have the tokens of which the teacher's cache was made "
                f"(checksum {record.tokens_checksum:08x}), but has others ({example.checksum:08x}); make the cache "
                "anew, or give the data and the tokenizer that it was made of."
            )
        return self._form.decode(record.payload, example.targets)

    @property
    def examples(self) -> int:
        """How many examples of the data there are, with those that were dropped."""
        return self._examples

    def target_log_probs(self, number: int) -> np.ndarray:
        """Returns log p(target) of an example's targets, float32 `[targets]`; none of one that was dropped.

        Raises:
            InputError: its record is missing or damaged.
        """
        record = self._reader[number]
        return self._form.target_log_probs(record.payload, record.counted_tokens)

    def close(self) -> None:
        """Closes the files."""
        self._reader.close()
