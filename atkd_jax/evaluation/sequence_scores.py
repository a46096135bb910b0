"""Log-likelihoods of continuations, on the sharded model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from atkd_jax.evaluation.measuring import compiled_step, placed, placed_rows
from atkd_jax.generation.prompts import bucket_length
from atkd_jax.models import Decoder
from atkd_jax.sharding import row_share


class SequenceScore(NamedTuple):
    """Of one continuation.

    Attributes:
        log_likelihood: The sum of its tokens' log-probabilities, in nats.
        is_greedy: Whether each of its tokens is the likeliest one.
    """

    log_likelihood: float
    is_greedy: bool


class SequenceScorer:
    """Scores continuations, a batch of rows of like lengths at a time.

    Args:
        model: Who is asked.
        vocab_size: The head is cut to so many tokens, the tokenizer's number.
        batch_size: Rows at once.
        mesh: Parameters and rows are spread over its devices; on several processes all ask the same.
        chunk_tokens: Positions that go through the head at once, on each device.
    """

    def __init__(
        self, model: Decoder, *, vocab_size: int, batch_size: int, mesh: Mesh | None = None, chunk_tokens: int = 256
    ):
        graph, params = nnx.split(model)
        self._params = placed(params, mesh)
        self._step = compiled_step([graph], mesh, vocab_size=vocab_size, chunk_tokens=chunk_tokens)
        self._mesh, self._learned_positions = mesh, model.learned_positions
        share = None if mesh is None else row_share(mesh)
        self._parts, self._part = (1, 0) if share is None else (share.count, share.index)
        self._rows = -(-batch_size // self._parts) * self._parts

    def __call__(
        self,
        pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
        *,
        max_length: int,
        on_scored: Callable[[int], None] = lambda done: None,
    ) -> list[SequenceScore]:
        """Returns the score of the second of each pair of token lists after the first, in order.

        Args:
            pairs: Of a context that is not empty, and a continuation, of token ids.
            max_length: Of the two together, without the last token, the last so many are seen by the model.
            on_scored: Is told how many have been scored, after each batch.

        Raises:
            InputError: More tokens are to be seen than the model has learned positions.
        """
        order = sorted(range(len(pairs)), key=lambda number: len(pairs[number][0]) + len(pairs[number][1]))
        scores: dict[int, SequenceScore] = {}
        for start in range(0, len(order), self._rows):
            numbers = order[start : start + self._rows]
            for number, score in zip(numbers, self._batch([pairs[n] for n in numbers], max_length), strict=True):
                scores[number] = score
            on_scored(len(scores))
        return [scores[number] for number in range(len(pairs))]

    def _batch(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], max_length: int) -> list[SequenceScore]:
        texts = [[*context, *continuation][-(max_length + 1) :] for context, continuation in pairs]
        # What is cut off at the left may reach into the continuation, whose first token is then not predicted.
        counted = [min(len(pair[1]), len(text) - 1) for pair, text in zip(pairs, texts, strict=True)]
        # One column more than the model sees: its last token predicts one that it need not see.
        shape = self._rows, self._length(max(map(len, texts)) - 1) + 1
        tokens, segment_ids = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
        loss_mask = np.zeros(shape, bool)
        for row, (text, count) in enumerate(zip(texts, counted, strict=True)):
            tokens[row, : len(text)] = text
            segment_ids[row, : len(text)] = 1
            loss_mask[row, len(text) - count : len(text)] = True
        positions = np.where(segment_ids == 1, np.arange(shape[1], dtype=np.int32), np.int32(0))
        seen = {"tokens": tokens, "positions": positions, "segment_ids": segment_ids}
        batch = {name: array[:, :-1] for name, array in seen.items()}
        # A row is one text, whose first token counts nowhere.
        batch |= {"targets": tokens[:, 1:], "counts": loss_mask[:, 1:]}
        own = slice(self._part * shape[0] // self._parts, (self._part + 1) * shape[0] // self._parts)
        (metrics,), _ = self._step(
            self._params, [], placed_rows({name: array[own] for name, array in batch.items()}, self._mesh)
        )
        cross_entropy, accuracy = (
            np.asarray(array, np.float64) for array in jax.device_get((metrics.cross_entropy, metrics.accuracy))
        )
        # The step gives its numbers row after row, and of each row the counted tokens alone.
        ends = np.cumsum(counted)
        return [
            SequenceScore(-float(cross_entropy[end - count : end].sum()), bool(accuracy[end - count : end].all()))
            for end, count in zip(ends, counted, strict=True)
        ]

    def _length(self, seen: int) -> int:
        """The length of rows of which the model sees so many tokens, in few different sizes."""
        bucket = bucket_length(seen)
        return bucket if self._learned_positions is None else max(seen, min(bucket, self._learned_positions))
