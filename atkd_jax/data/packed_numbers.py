"""Token ids, log-probabilities and counts in few bytes."""

from __future__ import annotations

import numpy as np

# Log-probabilities are kept to the nearest multiple, down to LOG_PROB_FLOOR.
LOG_PROB_STEP = 2.0**-10
_UNUSED = 65535
LOG_PROB_FLOOR = -LOG_PROB_STEP * (_UNUSED - 1)


def id_bytes(count: int, vocab_size: int) -> int:
    """Returns how many bytes `pack_ids` needs for so many ids."""
    bits = _id_bits(vocab_size)
    return count * (1 if bits <= 8 else 2) + max(0, bits - 16) * -(-count // 8)


def pack_ids(ids: np.ndarray, vocab_size: int) -> bytes:
    """Returns ids, 0 up to `vocab_size`, in a byte each, or in two, and each bit beyond 16 in a plane of bits.

    So an id of a vocabulary of 128,256 takes 17 bits.

    Example:
        >>> len(pack_ids(np.arange(80), 49_152)), len(pack_ids(np.arange(80), 128_256))
        (160, 170)
    """
    ids = np.ascontiguousarray(ids, np.uint32).reshape(-1)
    bits = _id_bits(vocab_size)
    if bits <= 8:
        return ids.astype(np.uint8).tobytes()
    planes = [np.packbits((ids >> bit) & 1).tobytes() for bit in range(16, bits)]
    return b"".join([(ids & 0xFFFF).astype("<u2").tobytes(), *planes])


def unpack_ids(data: bytes, count: int, vocab_size: int) -> np.ndarray:
    """Returns the int32 `[count]` that `pack_ids` was given."""
    bits = _id_bits(vocab_size)
    if bits <= 8:
        return np.frombuffer(data, np.uint8, count).astype(np.int32)
    ids = np.frombuffer(data, "<u2", count).astype(np.int32)
    of_plane = -(-count // 8)
    for bit in range(16, bits):
        plane = np.frombuffer(data, np.uint8, of_plane, 2 * count + (bit - 16) * of_plane)
        ids |= np.unpackbits(plane, count=count).astype(np.int32) << bit
    return ids


def _id_bits(vocab_size: int) -> int:
    return max(1, (vocab_size - 1).bit_length())


def pack_log_probs(log_probs: np.ndarray) -> bytes:
    """Returns log-probabilities in two bytes each, off by at most LOG_PROB_STEP / 2; -inf stays.

    What is below LOG_PROB_FLOOR, a probability of 2e-28, is raised to it.

    Example:
        >>> unpack_log_probs(pack_log_probs(np.array([-0.6931472, -np.inf])), 2)
        array([-0.6933594,       -inf], dtype=float32)
    """
    steps = np.asarray(log_probs, np.float64) / -LOG_PROB_STEP
    codes = np.where(np.isposinf(steps), _UNUSED, np.clip(np.rint(steps), 0, _UNUSED - 1))
    return codes.astype("<u2").tobytes()


def unpack_log_probs(data: bytes, count: int) -> np.ndarray:
    """Returns the float32 `[count]` that `pack_log_probs` was given, to its precision."""
    codes = np.frombuffer(data, "<u2", count)
    return np.where(codes == _UNUSED, -np.inf, codes * np.float32(-LOG_PROB_STEP)).astype(np.float32)
