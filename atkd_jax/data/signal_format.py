"""What a teacher says of tokens as bytes: which numbers are kept, how exactly, and how they are read again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import ml_dtypes
import numpy as np

from atkd_jax.data.packed_numbers import (
    LOG_PROB_STEP,
    id_bytes,
    pack_ids,
    pack_log_probs,
    unpack_ids,
    unpack_log_probs,
)
from atkd_jax.errors import InputError

Kind = Literal["top_k", "rest_sample", "hidden"]
HiddenType = Literal["float32", "bfloat16", "int8"]
Arrays = dict[str, np.ndarray]
# Exact in every kind: log p(target), log(1 - p(target)), and the entropy of the distribution without the target.
EXACT = ("target_log_prob", "log_uncertainty", "rest_entropy")
_HIDDEN_TYPES = {"float32": np.dtype("<f4"), "bfloat16": np.dtype(ml_dtypes.bfloat16), "int8": np.dtype(np.int8)}
_MOST_ENTRIES = 256
_MOST_DRAWS = 255


@dataclass(frozen=True)
class SignalFormat:
    """Which numbers are kept of a token, besides those of `EXACT`, which are float32.

    - `top_k`: the `k` likeliest ids, the logs of their probabilities to 2^-10, down to 64 below log UNC, and the
      float32 log of the mass outside of them; with `tail_draws`, so many draws with replacement besides, from the words
      that are neither those nor the target, and the float32 mass of these words.
    - `rest_sample`: `draws` draws with replacement from the distribution without the target, renormalised.
    - `hidden`: the state after the final norm, `width` numbers; as int8 with a float32 scale per token.

    Attributes:
        kind: one of them.
        vocab_size: ids are below it.
        k: of top_k.
        tail_draws: of top_k.
        draws: of rest_sample.
        width: of hidden.
        hidden_type: of hidden.

    Raises:
        InputError: a number is out of range.
    """

    kind: Kind
    vocab_size: int
    k: int = 0
    tail_draws: int = 0
    draws: int = 0
    width: int = 0
    hidden_type: HiddenType = "bfloat16"

    def __post_init__(self) -> None:
        if self.kind == "top_k":
            _require("cache.k", self.k, 1, min(_MOST_ENTRIES, self.vocab_size - 1))
            _require("cache.tail_draws", self.tail_draws, 0, _MOST_DRAWS)
        if self.kind == "rest_sample":
            _require("cache.draws", self.draws, 1, _MOST_DRAWS)

    def encode(self, arrays: Mapping[str, np.ndarray]) -> bytes:
        """Returns the arrays of some tokens as bytes.

        Args:
            arrays: `EXACT`, float32 `[tokens]`, and by kind: ids `[tokens, k]` (-1 where there are fewer), log_probs
                `[tokens, k]`, log_rest_mass `[tokens]`, and with tail draws tail_ids and tail_weights
                `[tokens, tail_draws]`; or ids and counts `[tokens, draws]`, each id once; or hidden `[tokens, width]`,
                and with int8 scale `[tokens]`. A weight is the tail's mass times the share of the draws.
        """
        parts = [np.asarray(arrays[name], "<f4").tobytes() for name in EXACT]
        if self.kind == "top_k":
            ids = np.asarray(arrays["ids"])
            parts += [np.asarray(arrays["log_rest_mass"], "<f4").tobytes()]
            parts += [pack_ids(np.maximum(ids, 0), self.vocab_size)]
            parts += [pack_log_probs(np.where(ids < 0, -np.inf, arrays["log_probs"] - _offset(arrays)))]
            if self.tail_draws:
                parts += self._tail_bytes(arrays["tail_ids"], np.asarray(arrays["tail_weights"], np.float64))
        elif self.kind == "rest_sample":
            parts += self._drawn_bytes(arrays["ids"], arrays["counts"])
        else:
            parts += [np.asarray(arrays["hidden"], _HIDDEN_TYPES[self.hidden_type]).tobytes()]
            if self.hidden_type == "int8":
                parts += [np.asarray(arrays["scale"], "<f4").tobytes()]
        return b"".join(parts)

    def decode(self, data: bytes, targets: np.ndarray) -> Arrays:
        """Returns what `encode` was given.

        The entries of top_k that are not the target's are moved by at most 2^-11 more, so that they, the target and the
        mass outside add up to 1; the target's is exact.

        Args:
            data: as `encode` made it.
            targets: integers `[tokens]`.
        """
        tokens, bytes_left = len(targets), _Bytes(data)
        arrays = {name: bytes_left.array("<f4", (tokens,)) for name in EXACT}
        if self.kind == "top_k":
            count, shape = tokens * self.k, (tokens, self.k)
            arrays["log_rest_mass"] = bytes_left.array("<f4", (tokens,))
            ids = unpack_ids(bytes_left.take(id_bytes(count, self.vocab_size)), count, self.vocab_size)
            log_probs = unpack_log_probs(bytes_left.take(2 * count), count).reshape(shape)
            arrays["ids"] = np.where(np.isneginf(log_probs), -1, ids.reshape(shape)).astype(np.int32)
            arrays["log_probs"] = _settled(arrays, log_probs + _offset(arrays), targets)
            if self.tail_draws:
                mass = bytes_left.array("<f4", (tokens,))
                arrays["tail_ids"], counts = self._drawn(bytes_left, tokens, self.tail_draws)
                arrays["tail_weights"] = mass[:, None] * (counts.astype(np.float32) / np.float32(self.tail_draws))
        elif self.kind == "rest_sample":
            arrays["ids"], arrays["counts"] = self._drawn(bytes_left, tokens, self.draws)
        else:
            arrays["hidden"] = bytes_left.array(_HIDDEN_TYPES[self.hidden_type], (tokens, self.width))
            if self.hidden_type == "int8":
                arrays["scale"] = bytes_left.array("<f4", (tokens,))
        return arrays

    def target_log_probs(self, data: bytes, tokens: int) -> np.ndarray:
        """Returns log p(target) alone, float32 `[tokens]`, of what `encode` made of so many tokens."""
        return _Bytes(data).array("<f4", (tokens,))

    def shapes(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Returns the shape per token and the type of every array that `decode` gives."""
        none = self.decode(b"", np.zeros(0, np.int32))
        return {name: (array.shape[1:], array.dtype) for name, array in none.items()}

    def _tail_bytes(self, ids: np.ndarray, weights: np.ndarray) -> list[bytes]:
        mass = weights.sum(axis=1)
        shares = weights / np.where(mass > 0, mass, 1.0)[:, None]
        return [mass.astype("<f4").tobytes(), *self._drawn_bytes(ids, np.rint(self.tail_draws * shares))]

    def _drawn_bytes(self, ids: np.ndarray, counts: np.ndarray) -> list[bytes]:
        there = np.asarray(counts) > 0
        numbers = there.sum(axis=1).astype(np.uint8).tobytes()
        return [numbers, pack_ids(ids[there], self.vocab_size), np.asarray(counts)[there].astype(np.uint8).tobytes()]

    def _drawn(self, bytes_left: _Bytes, tokens: int, draws: int) -> tuple[np.ndarray, np.ndarray]:
        numbers = bytes_left.array(np.uint8, (tokens,)).astype(np.int64)
        total = int(numbers.sum())
        there = np.arange(draws) < numbers[:, None]
        ids, counts = np.full((tokens, draws), -1, np.int32), np.zeros((tokens, draws), np.int32)
        ids[there] = unpack_ids(bytes_left.take(id_bytes(total, self.vocab_size)), total, self.vocab_size)
        counts[there] = bytes_left.array(np.uint8, (total,))
        return ids, counts


class _Bytes:
    """Bytes that are taken from the front."""

    def __init__(self, data: bytes):
        self._data, self._start = data, 0

    def take(self, count: int) -> bytes:
        start, self._start = self._start, self._start + count
        return self._data[start : self._start]

    def array(self, dtype: np.dtype | type | str, shape: tuple[int, ...]) -> np.ndarray:
        dtype = np.dtype(dtype)
        return np.frombuffer(self.take(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)


def _offset(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns log UNC, which no word but the target exceeds: beside it a sure teacher's words are told apart, too."""
    log_uncertainty = np.asarray(arrays["log_uncertainty"], np.float64)[:, None]
    return np.where(np.isfinite(log_uncertainty), log_uncertainty, 0.0)


def _settled(arrays: Arrays, log_probs: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Returns the entries so that the whole distribution adds up to 1, with the target's own as it is known exactly."""
    is_target = arrays["ids"] == np.asarray(targets)[:, None]
    has_target = is_target.any(axis=1)
    others = np.where(is_target, -np.inf, log_probs.astype(np.float64))
    outside = np.exp(arrays["log_rest_mass"].astype(np.float64))
    uncertainty = np.exp(arrays["log_uncertainty"].astype(np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        missing = np.log(np.where(has_target, uncertainty, 1.0) - outside) - np.log(np.exp(others).sum(axis=1))
    shift = np.clip(np.where(np.isfinite(missing), missing, 0.0), -LOG_PROB_STEP / 2, LOG_PROB_STEP / 2)
    settled = np.minimum(others + shift[:, None], 0.0)
    return np.where(is_target, arrays["target_log_prob"][:, None], settled).astype(np.float32)


def _require(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise InputError(f"{name} must be from {least} to {most} for this teacher's vocabulary, but {value} came.")
