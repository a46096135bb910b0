"""TPU kernels for a chunk of a linear KL: logits of both models live in VMEM only, a tile at a time.

A first kernel goes over the words and finds what `blocked` needs of each token; a second one forms the logits again and
writes the gradients. Hidden states of the whole chunk stay in VMEM meanwhile, so that each pass reads both heads once a
chunk, which is all but all of its traffic with HBM. The words are shared out between the chip's cores where there are
two.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from atkd_jax.losses.rest import Rest

_BLOCK_WORDS = 256
_CORES = 2
_SUBTILE = 256
# A vector per token would take a whole register row per token: the vectors share one array, a lane each.
_LANES = 128
# Of the 64 MiB that each core of a v5p has; the rest is the compiler's.
_VMEM_LIMIT = 62 * 2**20


def chunk_tokens(hidden: tuple[jax.Array, ...], heads: tuple[jax.Array, ...]) -> int:
    """Returns how many tokens fit into VMEM beside the blocks of the heads, student's before teacher's."""
    width, item = heads[0].shape[0], heads[0].dtype.itemsize
    of_token = sum(states.shape[-1] * states.dtype.itemsize for states in hidden) + 4 * width + 2 * 4 * _LANES
    # Two buffers of every block: of the heads, and of the gradient coming and going; its sum, and that turned round.
    of_word = 2 * sum(head.shape[0] * head.dtype.itemsize for head in heads) + (4 * item + 8) * width
    # A subtile's product with the head, and what is made of its logits, about eight times as much as they.
    of_subtile = 4 * _SUBTILE * (width + 8 * _BLOCK_WORDS)
    left = _VMEM_LIMIT - _BLOCK_WORDS * of_word - of_subtile
    return max(_SUBTILE, left // of_token // _SUBTILE * _SUBTILE)


def statistics(
    direction: str,
    scale: float,
    vocab_size: int,
    hidden: tuple[jax.Array, ...],
    heads: tuple[jax.Array, ...],
    targets: jax.Array,
) -> tuple[Rest, Rest, jax.Array]:
    """Returns the rest of the student and of the teacher, and the gap of a KL between them, `[tokens]` each.

    Args:
      direction: "forward" or "reverse".
      scale: what logits are multiplied by.
      vocab_size: how many columns of the heads are words.
      hidden: the student's and the teacher's, `[tokens, width]`, of a chunk that fits into VMEM.
      heads: `[width, vocab]`, likewise.
      targets: int32 `[tokens]`, -1 leaves no word out.
    """
    cut = _Cut(targets.shape[0], vocab_size)
    of_tokens = [cut.lanes(targets[:, None]), *map(cut.padded, hidden)]
    found = _called(
        partial(_statistics_kernel, direction, scale, cut),
        (*of_tokens, *heads),
        out_shape=jax.ShapeDtypeStruct((cut.cores, cut.tokens, _LANES), jnp.float32),
        grid=(cut.cores, cut.steps),
        in_specs=[*map(cut.resident, of_tokens), *map(cut.block, heads)],
        out_specs=cut.of_core(_LANES),
        cost_estimate=cut.cost((*of_tokens, of_tokens[0]), heads, sum(head.shape[0] for head in heads)),
        name="linear_kl_statistics",
    )
    parts = [_unpacked(part) for part in found[:, : targets.shape[0]]]
    return parts[0] if len(parts) == 1 else _merged(direction, *parts)


def gradient(
    direction: str,
    scale: float,
    vocab_size: int,
    hidden: tuple[jax.Array, ...],
    heads: tuple[jax.Array, ...],
    targets: jax.Array,
    by_token: tuple[jax.Array, ...],
    by_head: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Returns `by_head` with this chunk's part added, and the derivative by the student's hidden states, float32.

    Args:
      direction: and the arguments after it: as in `statistics`.
      scale: see there.
      vocab_size: see there.
      hidden: see there.
      heads: see there.
      targets: see there.
      by_token: `[tokens]` each: shift and log-total of the student, then of the teacher, the divergence, and the
        derivatives by the student's margin and by the divergence.
      by_head: the derivatives by the student's head so far, `[width, vocab]`.
    """
    cut = _Cut(targets.shape[0], vocab_size)
    width, teacher_width = (head.shape[0] for head in heads)
    of_tokens = [cut.lanes(targets[:, None]), cut.lanes(jnp.stack(by_token, axis=1)), *map(cut.padded, hidden)]
    by_hidden = jax.ShapeDtypeStruct((cut.cores, cut.tokens, width), jnp.float32)
    of_words = (*heads, by_head)
    by_head, found = _called(
        partial(_gradient_kernel, direction, scale, cut),
        (*of_tokens, *of_words),
        out_shape=(jax.ShapeDtypeStruct(by_head.shape, by_head.dtype), by_hidden),
        grid=(cut.cores, cut.steps),
        in_specs=[*map(cut.resident, of_tokens), *map(cut.block, of_words)],
        out_specs=(cut.block(by_head), cut.of_core(width)),
        scratch_shapes=[pltpu.VMEM((_BLOCK_WORDS, width), jnp.float32)],
        input_output_aliases={6: 0},
        cost_estimate=cut.cost(
            (*of_tokens, jax.ShapeDtypeStruct(by_hidden.shape[1:], jnp.float32)),
            (*of_words, by_head),
            3 * width + teacher_width,
        ),
        name="linear_kl_gradient",
    )
    return by_head, jnp.sum(found, axis=0)[: targets.shape[0]]


def _called(kernel, arrays, **how):
    """Returns what a kernel makes of the arrays: compiled where the program is for TPUs, elsewhere interpreted."""
    params = pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=_VMEM_LIMIT)
    compiled = pl.pallas_call(kernel, compiler_params=params, **how)
    return jax.lax.platform_dependent(*arrays, tpu=compiled, default=pl.pallas_call(kernel, interpret=True, **how))


class _Cut:
    """How a chunk is cut: tokens in subtiles that stay in VMEM, words in blocks shared out between the cores."""

    def __init__(self, tokens: int, vocab_size: int):
        self.subtile = min(_SUBTILE, -(-tokens // 16) * 16)
        self.tokens = -(-tokens // self.subtile) * self.subtile
        self.vocab_size = vocab_size
        self.blocks = -(-vocab_size // _BLOCK_WORDS)
        self.cores = min(_CORES, self.blocks)
        self.steps = -(-self.blocks // self.cores)

    def padded(self, array: jax.Array) -> jax.Array:
        return jnp.pad(array, ((0, self.tokens - array.shape[0]), (0, 0)))

    def lanes(self, array: jax.Array) -> jax.Array:
        return self.padded(jnp.pad(array, ((0, 0), (0, _LANES - array.shape[1]))))

    def number(self, core, step):
        return core * self.steps + step

    def resident(self, array: jax.Array) -> pl.BlockSpec:
        return pl.BlockSpec(array.shape, lambda core, step: (0, 0), pipeline_mode=pl.Buffered(1))

    def of_core(self, width: int) -> pl.BlockSpec:
        return pl.BlockSpec((None, self.tokens, width), lambda core, step: (core, 0, 0), pipeline_mode=pl.Buffered(1))

    def block(self, head: jax.Array) -> pl.BlockSpec:
        # The last core may have a block too few: it stays at its last one and does nothing.
        return pl.BlockSpec(
            (head.shape[0], _BLOCK_WORDS), lambda core, step: (0, jnp.minimum(self.number(core, step), self.blocks - 1))
        )

    def cost(self, of_tokens, of_words, products: int) -> pl.CostEstimate:
        """Arrays of tokens move to or from every core once, those of words to or from one of them once."""
        moved = self.cores * sum(array.size * array.dtype.itemsize for array in of_tokens)
        moved += sum(array.shape[0] * self.vocab_size * array.dtype.itemsize for array in of_words)
        pairs = self.tokens * self.vocab_size
        return pl.CostEstimate(flops=2 * pairs * products, transcendentals=2 * pairs, bytes_accessed=moved)

    def over_subtiles(self, body) -> None:
        def step(number, nothing):
            body(pl.ds(pl.multiple_of(number * self.subtile, self.subtile), self.subtile))
            return nothing

        jax.lax.fori_loop(0, self.tokens // self.subtile, step, ())


def _tile(cut: _Cut, number, scale, rows, targets, hidden, heads):
    """Returns both models' logits of a tile, `[subtile, words]`, which columns are words, and which the target's."""
    logits = tuple(
        jnp.dot(states[rows, :], head[...].astype(states.dtype), preferred_element_type=jnp.float32) * scale
        for states, head in zip(hidden, heads, strict=True)
    )
    column = number * _BLOCK_WORDS + jax.lax.broadcasted_iota(jnp.int32, logits[0].shape, 1)
    return logits, column < cut.vocab_size, column == targets[rows, :1]


def _statistics_kernel(direction, scale, cut: _Cut, targets, hs, ht, head_s, head_t, out):
    number = cut.number(pl.program_id(0), pl.program_id(1))

    @pl.when(pl.program_id(1) == 0)
    def _():
        lane = jax.lax.broadcasted_iota(jnp.int32, out.shape, 1)
        out[...] = jnp.where(lane % 3 == 1, 0.0, -jnp.inf)
        out[:, 6:7] = jnp.zeros((cut.tokens, 1), jnp.float32)

    def body(rows):
        logits, is_word, at_target = _tile(cut, number, scale, rows, targets, (hs, ht), (head_s, head_t))
        before = [out[rows, lane : lane + 1] for lane in range(7)]
        rests, shifts, shifted = [], [], []
        for model, block in enumerate(logits):
            largest, total, target = before[3 * model : 3 * model + 3]
            rest = jnp.where(is_word & ~at_target, block, -jnp.inf)
            new = jnp.maximum(largest, jnp.max(rest, axis=1, keepdims=True))
            shift = _finite(new)
            relative = rest - shift
            total = total * jnp.exp(largest - shift) + jnp.sum(jnp.exp(relative), axis=1, keepdims=True)
            met = jnp.max(jnp.where(is_word & at_target, block, -jnp.inf), axis=1, keepdims=True)
            rests += [new, total, jnp.maximum(target, met)]
            shifts.append((_finite(largest), shift))
            shifted.append(relative)
        first, second = (1, 0) if direction == "forward" else (0, 1)
        weight = jnp.exp(shifted[first])
        gap = jnp.sum(jnp.where(weight > 0, weight * (shifted[first] - shifted[second]), 0), axis=1, keepdims=True)
        lowered = (shifts[first][0] - shifts[first][1]) - (shifts[second][0] - shifts[second][1])
        largest, total = before[3 * first], before[3 * first + 1]
        moved = jnp.exp(largest - shifts[first][1]) * (before[6] + total * lowered)
        for lane, vector in enumerate((*rests, jnp.where(total != 0, moved, 0) + gap)):
            out[rows, lane : lane + 1] = vector

    @pl.when(number < cut.blocks)
    def _():
        cut.over_subtiles(body)


def _gradient_kernel(
    direction, scale, cut: _Cut, targets, vectors, hs, ht, head_s, head_t, before, by_head, by_hidden, total
):
    number = cut.number(pl.program_id(0), pl.program_id(1))

    @pl.when(pl.program_id(1) == 0)
    def _():
        by_hidden[...] = jnp.zeros_like(by_hidden)

    @pl.when(number < cut.blocks)
    def _():
        total[...] = jnp.zeros_like(total)
        columns = head_s[...].astype(hs.dtype)
        if cut.vocab_size % _BLOCK_WORDS:
            # What stands beyond the last word is not 0, and might be NaN.
            column = number * _BLOCK_WORDS + jax.lax.broadcasted_iota(jnp.int32, columns.shape, 1)
            columns = jnp.where(column < cut.vocab_size, columns, 0)

        def body(rows):
            logits, is_word, at_target = _tile(cut, number, scale, rows, targets, (hs, ht), (head_s, head_t))
            slope = _slope(direction, logits, at_target, [vectors[rows, lane : lane + 1] for lane in range(7)])
            narrow = jnp.where(is_word, slope * scale, 0).astype(hs.dtype)
            by_hidden[rows, :] += _contracted(narrow, columns, 1)
            # Of the factors, `narrow` is the small one to turn round.
            total[...] += _contracted(narrow, hs[rows, :], 0)

        cut.over_subtiles(body)
        by_head[...] = (before[...].astype(jnp.float32) + total[...].T).astype(by_head.dtype)


def _slope(direction, logits, at_target, vectors) -> jax.Array:
    shift_s, log_total_s, shift_t, log_total_t, divergence, by_margin, by_divergence = vectors
    log_q, log_p = (logits[0] - shift_s) - log_total_s, (logits[1] - shift_t) - log_total_t
    q = jnp.exp(log_q)
    if direction == "forward":
        change = q - jnp.exp(log_p)
    else:
        has_slope = (q > 0) & (jnp.abs(divergence) < jnp.inf)
        change = q * jnp.where(has_slope, log_q - log_p - divergence, 0)
    return jnp.where(at_target, by_margin, by_divergence * change - by_margin * q)


def _contracted(left: jax.Array, right: jax.Array, axis: int) -> jax.Array:
    return jax.lax.dot_general(left, right, (((axis,), (axis,)), ((), ())), preferred_element_type=jnp.float32)


def _finite(largest: jax.Array) -> jax.Array:
    return jnp.where(largest == -jnp.inf, 0, largest)


def _unpacked(lanes: jax.Array) -> tuple[Rest, Rest, jax.Array]:
    vectors = [lanes[:, lane] for lane in range(7)]
    return Rest(*vectors[:3]), Rest(*vectors[3:6]), vectors[6]


def _merged(direction: str, left, right):
    """Returns what one core has found and what another has, together."""

    def both(a: Rest, b: Rest) -> Rest:
        after = Rest(jnp.maximum(a.largest, b.largest), a.total, jnp.maximum(a.target, b.target))
        shift = after.shift()
        return after._replace(total=a.total * jnp.exp(a.largest - shift) + b.total * jnp.exp(b.largest - shift))

    student, teacher = both(left[0], right[0]), both(left[1], right[1])
    first = 1 if direction == "forward" else 0
    gap = jnp.zeros_like(left[2])
    for part in (left, right):
        lowered = (part[first].shift() - (student, teacher)[first].shift()) - (
            part[1 - first].shift() - (student, teacher)[1 - first].shift()
        )
        kept = jnp.exp(part[first].largest - (student, teacher)[first].shift())
        gap += jnp.where(part[first].total != 0, kept * (part[2] + part[first].total * lowered), 0)
    return student, teacher, gap
