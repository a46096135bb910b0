"""The batches of an evaluation: every example once, in a fixed order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from atkd_jax.data.counts import Counts, counts_of_row
from atkd_jax.data.encoding import EncodedExample, EncodedExamples, Overlong
from atkd_jax.data.examples import Examples
from atkd_jax.data.packing import Packer
from atkd_jax.data.rows import Batch, batch_of_rows, rows_of_process
from atkd_jax.data.templates import Template, TemplateName

OPEN_ROWS = 64


def evaluation_batches(
    examples: Examples,
    tokenizer: Any,
    *,
    template: TemplateName,
    sequence_length: int,
    batch_size: int,
    packing: bool,
    overlong: Overlong,
    process_index: int = 0,
    process_count: int = 1,
) -> EvaluationBatches:
    """Returns the batches that hold each example once; the last one ends in empty rows.

    The arguments are those of `training_batches`, and the batch likewise does not depend on the number of processes.
    They are made as they are read, and may be read any number of times.

    Raises:
        InputError: as `training_batches`.

    Example:
        >>> import tokenizers, transformers
        >>> from atkd_jax.data import Example
        >>> words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<eos>": 0, "why": 1, "so": 2}, "<eos>"))
        >>> words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        >>> tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>")
        >>> batches = evaluation_batches(
        ...     [Example("why", "so")] * 3, tokenizer, template="plain", sequence_length=6, batch_size=1, packing=True,
        ...     overlong="truncate",
        ... )
        >>> [batch["tokens"].tolist() for batch in batches]
        [[[1, 2, 0, 1, 2, 0]], [[1, 2, 0, 0, 0, 0]]]
    """
    rows = rows_of_process(
        batch_size, process_index=process_index, process_count=process_count, setting="evaluation.batch_size"
    )
    form = Template(template, tokenizer)
    encoded = EncodedExamples(examples, template=form, sequence_length=sequence_length, overlong=overlong)
    return EvaluationBatches(
        encoded,
        sequence_length=sequence_length,
        batch_size=batch_size,
        packing=packing,
        padding_id=form.padding_id,
        rows=rows,
    )


class EvaluationBatches(Iterable[Batch]):
    """Batches (see `rows.batch_of_rows`) to be read from the start as often as wanted."""

    def __init__(
        self,
        encoded: EncodedExamples,
        *,
        sequence_length: int,
        batch_size: int,
        packing: bool,
        padding_id: int,
        rows: range,
    ):
        self._encoded = encoded
        self._sequence_length = sequence_length
        self._batch_size = batch_size
        self._packing = packing
        self._padding_id = padding_id
        self._rows = rows
        self._counts = Counts()

    def __iter__(self) -> Iterator[Batch]:
        self._counts = Counts()
        waiting: list[list[EncodedExample]] = []
        for row in self._packed_rows():
            waiting.append(row)
            if len(waiting) == self._batch_size:
                yield self._batch(waiting)
                waiting = []
        if waiting:
            yield self._batch(waiting + [[]] * (self._batch_size - len(waiting)))

    @property
    def counts(self) -> Counts:
        """What the reading that began last has handed out so far, over the rows of all processes."""
        return self._counts

    @property
    def fill(self) -> float:
        """The share of places that hold a token, in 0..1, in the batches that `counts` tells of."""
        return self._counts.fill(self._sequence_length)

    def _packed_rows(self) -> Iterator[list[EncodedExample]]:
        packer = Packer[EncodedExample](capacity=self._sequence_length, open_rows=OPEN_ROWS)
        for place in range(len(self._encoded)):
            example = self._encoded[place]
            if example is None:
                self._counts += Counts(dropped=1)
                continue
            self._counts += Counts(truncated=int(example.truncated))
            if not self._packing:
                yield [example]
            elif (closed := packer.add(example, length=len(example.tokens), position=place)) is not None:
                yield closed
        yield from packer.flush()

    def _batch(self, rows: list[list[EncodedExample]]) -> Batch:
        for row in rows:
            self._counts += counts_of_row(row)
        return batch_of_rows(
            rows[self._rows.start : self._rows.stop], sequence_length=self._sequence_length, padding_id=self._padding_id
        )
