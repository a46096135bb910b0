"""The endless, shuffled, packed batches of training, and their position."""

from __future__ import annotations

import copy
import weakref
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np

from atkd_jax.data.counts import Counts, total
from atkd_jax.data.encoding import EncodedExamples, Overlong
from atkd_jax.data.epochs import ShuffledEpochs
from atkd_jax.data.examples import Examples
from atkd_jax.data.row_batches import RowBatches, Signals
from atkd_jax.data.rows import Batch, rows_of_process
from atkd_jax.data.templates import Template, TemplateName
from atkd_jax.errors import InputError

PREFETCHED_BATCHES = 4
_CHECKED_EXAMPLES = 16


def training_batches(
    examples: Examples,
    tokenizer: Any,
    *,
    template: TemplateName,
    sequence_length: int,
    batch_size: int,
    packing: bool,
    overlong: Overlong,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    signals: Signals | None = None,
    signals_name: str | None = None,
    teacher_tokenizer: Any = None,
) -> TrainingBatches:
    """Returns an endless iterator over this process's rows of the global batches.

    The global batch depends on the data, the tokenizer and the arguments up to `seed` alone. Row r packs every
    `batch_size`-th example, from number r on, of the shuffled epochs laid end to end; process p of P has the rows
    p * batch_size / P up to (p + 1) * batch_size / P. Every epoch has another order, and a seed always the same ones.

    Args:
        examples: by number, as `open_source` gives them.
        tokenizer: a fast tokenizer of transformers.
        template: `chat` or `plain`, see `Template`.
        sequence_length: tokens in a row.
        batch_size: rows in the global batch; a multiple of `process_count`.
        packing: whether several examples share a row, each a segment of its own; else one example a row.
        overlong: what happens to an example longer than a row, see `EncodedExamples`.
        seed: of the order, 0 or more.
        process_index: the number of this process.
        process_count: how many processes share each batch.
        signals: gives further arrays of a batch's rows: what a cached teacher says of them.
        signals_name: tells their source from others; a position that was saved with another one is refused.
        teacher_tokenizer: the teacher's, where it reads the text in tokens of its own, see `batch_of_rows`.

    Raises:
        InputError: no example is of any use, one is too long and must not be, the tokenizer lacks a chat template or
            an EOS token, or the rows cannot be divided among the processes.

    Example:
        >>> import tokenizers, transformers
        >>> from atkd_jax.data import Example
        >>> words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<eos>": 0, "why": 1, "so": 2}, "<eos>"))
        >>> words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        >>> tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>")
        >>> batches = training_batches(
        ...     [Example("why", "so so")], tokenizer, template="plain", sequence_length=9, batch_size=1, packing=True,
        ...     overlong="truncate", seed=0,
        ... )
        >>> batch = next(batches)
        >>> batch["tokens"], batch["segment_ids"]
        (array([[1, 2, 2, 0, 1, 2, 2, 0, 0]], dtype=int32), array([[1, 1, 1, 1, 2, 2, 2, 2, 0]], dtype=int32))
        >>> batch["loss_mask"].astype(int)
        array([[0, 1, 1, 1, 0, 1, 1, 1, 0]])
        >>> batches.counts.examples
        2
    """
    rows = rows_of_process(
        batch_size, process_index=process_index, process_count=process_count, setting="training.batch_size"
    )
    form = Template(template, tokenizer)
    teacher_form = None if teacher_tokenizer is None else Template(template, teacher_tokenizer)
    encoded = EncodedExamples(
        examples, template=form, sequence_length=sequence_length, overlong=overlong, teacher_template=teacher_form
    )
    ordered = ShuffledEpochs(grain.MapDataset.source(encoded), seed=seed)
    batches = RowBatches(
        ordered,
        rows=rows,
        row_count=batch_size,
        sequence_length=sequence_length,
        packing=packing,
        padding_id=form.padding_id,
        signals=signals,
        teacher_padding_id=None if teacher_form is None else teacher_form.padding_id,
    )
    settings = {
        "examples": len(examples),
        "checksum": _checksum(encoded, ordered.order(0)),
        "template": template,
        "sequence_length": sequence_length,
        "batch_size": batch_size,
        "packing": packing,
        "overlong": overlong,
        "seed": seed,
    } | ({} if signals_name is None else {"signals": signals_name})
    return TrainingBatches(batches, settings)


class TrainingBatches(Iterator[Batch]):
    """An endless iterator over batches (see `rows.batch_of_rows`) that are made ahead, in a thread.

    Its state is that of the batches handed out, not of those made ahead. An error while a batch is made is raised when
    its turn comes, and again at every later call: no batch is skipped.
    """

    def __init__(self, batches: RowBatches, settings: dict[str, Any]):
        self._settings = settings
        ahead = grain.experimental.ThreadPrefetchIterDataset(batches, prefetch_buffer_size=PREFETCHED_BATCHES)
        self._iterators = [iter(ahead)]
        # Also at the interpreter's exit: later, Grain's own clean-up would find its modules gone and print an error.
        self._finalizer = weakref.finalize(self, _close_all, self._iterators)

    def __next__(self) -> Batch:
        return next(self._iterator)

    @property
    def _iterator(self) -> grain.DatasetIterator:
        if not self._iterators:
            raise ValueError("These batches were closed: make new ones with training_batches.")
        return self._iterators[0]

    def get_state(self) -> dict[str, Any]:
        """Returns the position after the last batch handed out, as plain values that JSON can hold.

        It names each of this process's rows. `merge_states` joins those of all processes, and any process of a later
        run takes its rows out of the whole.
        """
        return {"settings": dict(self._settings), "rows": copy.deepcopy(self._iterator.get_state()["rows"])}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a position of a run with the same data settings, of any number of processes.

        Raises:
            InputError: it was saved with other data or settings, or lacks some of this process's rows.
        """
        saved = state["settings"]
        different = [key for key in self._settings if saved.get(key) != self._settings[key]]
        # The checksum of tokens and order follows from the rest; it speaks where only data or tokenizer changed.
        different = [key for key in different if key != "checksum"] or different
        if different:
            pairs = ", ".join(f"{key} was {saved.get(key)!r} and is {self._settings[key]!r}" for key in different)
            raise InputError(
                f"The data position was saved with other data, tokenizer or settings ({pairs}): set them as they were, "
                "or start anew in another run_dir."
            )
        by_row = {row["row"]: row for row in state["rows"]}
        needed = [row["row"] for row in self._iterator.get_state()["rows"]]
        if missing := sorted(set(needed) - set(by_row)):
            raise InputError(
                f"The data position lacks the rows {missing} of the global batch: join the states of all processes "
                "with merge_states."
            )
        self._iterator.set_state({"rows": [by_row[row] for row in needed]})

    @property
    def counts(self) -> Counts:
        """What went through this process's rows so far; it is saved with the position."""
        return total(Counts(**row["counts"]) for row in self._iterator.get_state()["rows"])

    @property
    def fill(self) -> float:
        """The share of places in the batches so far that hold a token, in 0..1."""
        return self.counts.fill(self._settings["sequence_length"])

    @property
    def epoch(self) -> float:
        """How often the data was handed out or dropped, judged by this process's rows; 1.0 is once through."""
        counts = self.counts
        share = len(self._iterator.get_state()["rows"]) / self._settings["batch_size"]
        return (counts.examples + counts.dropped) / (self._settings["examples"] * share)

    def close(self) -> None:
        """Ends the thread that makes batches ahead."""
        self._finalizer()


def merge_states(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the position of the global batch from those of all processes at the same step.

    Raises:
        InputError: they were saved with different settings, or at different steps.
    """
    rows = sorted((row for state in states for row in state["rows"]), key=lambda row: row["row"])
    if any(state["settings"] != states[0]["settings"] for state in states):
        raise InputError(
            "The data positions of the processes were saved with different settings: they are not of one run."
        )
    if len({row["counts"]["rows"] for row in rows}) > 1:
        raise InputError(
            "The data positions of the processes were saved at different steps: they are not of one checkpoint."
        )
    return {"settings": states[0]["settings"], "rows": rows}


def _close_all(iterators: list[grain.DatasetIterator]) -> None:
    while iterators:
        iterators.pop().close()


def _checksum(encoded: EncodedExamples, order: np.ndarray) -> int:
    """A checksum of an order and of some examples' tokens: tells other data, tokenizers and shuffles apart."""
    checksum = zlib.crc32(order.astype(np.int64).tobytes())
    for number in np.linspace(0, len(encoded) - 1, num=min(len(encoded), _CHECKED_EXAMPLES)).astype(int):
        example = encoded[int(number)]
        checksum = zlib.crc32(b"" if example is None else example.tokens.tobytes(), checksum)
        if example is not None and example.teacher is not None:
            checksum = zlib.crc32(example.teacher.tokens.tobytes(), checksum)
    return checksum
