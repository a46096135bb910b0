"""The teacher's pass over batches of which its signal is kept: jitted, and sharded as in training."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from atkd_jax import losses
from atkd_jax.data.signal_format import EXACT, SignalFormat
from atkd_jax.losses.varying import marked_varying
from atkd_jax.models import Decoder
from atkd_jax.objectives import next_token_targets
from atkd_jax.sharding import TOKENS, VOCAB_AXIS, constrain, even_columns, map_tokens, whole_row_sharding

_INT8_MOST = 127.0
Arrays = dict[str, jax.Array]


def make_extraction(
    teacher: nnx.GraphDef[Decoder],
    form: SignalFormat,
    *,
    seed: int,
    chunk_tokens: int = 256,
    mesh: Mesh | None = None,
) -> Callable[[Any, Arrays], Arrays]:
    """Returns the jitted `extract(teacher_params, batch)`, which gives what `form` keeps, `[rows, length, ...]`.

    Only counted tokens go through the head; what stands at other places has no meaning. What is drawn depends on the
    seed, on the token's example and on its place in it alone, not on the batch.

    Args:
        teacher: Its structure.
        form: What is kept, of which vocabulary.
        seed: Of what is drawn.
        chunk_tokens: How many tokens go through the head at once on a device, with logits of the whole vocabulary.
        mesh: How the teacher and the rows are split over devices; None or a single device splits nothing.

    The batch has tokens, positions, segment_ids, loss_mask, and `example_numbers`, int32 `[rows, length]`.
    """

    def extract(params: Any, batch: Arrays) -> Arrays:
        model = nnx.merge(teacher, params)
        inputs = {name: batch[name] for name in ("tokens", "positions", "segment_ids")}
        hidden = constrain(model.hidden_states(**inputs, mesh=mesh), mesh, "rows", "length", "width")
        targets, mask = next_token_targets(
            tokens=batch["tokens"], segment_ids=batch["segment_ids"], loss_mask=batch["loss_mask"]
        )
        by_token = {"hidden": hidden, "targets": targets, "mask": mask}
        by_token |= {name: batch[name] for name in ("positions", "example_numbers")}
        of = partial(_of_device, form=form, seed=seed, softcap=model.logit_softcap, chunk_tokens=chunk_tokens)
        head = model.head_matrix()
        if mesh is None or mesh.size == 1:
            found = of(by_token, head, is_split=False)
        else:
            head = even_columns(head, form.vocab_size, mesh)
            found = map_tokens(lambda own, head: (jnp.zeros(()), of(own, head)), mesh, tokens=by_token, heads=head)[1]
        return found | (_stored_hidden(hidden, form.hidden_type) if form.kind == "hidden" else {})

    return jax.jit(extract, out_shardings=None if mesh is None else whole_row_sharding(mesh))


def _of_device(
    tokens: Arrays,
    head: jax.Array,
    *,
    form: SignalFormat,
    seed: int,
    softcap: float | None,
    chunk_tokens: int,
    is_split: bool = True,
) -> Arrays:
    """Returns the arrays of one device's tokens, which has some of the head's columns where `is_split`."""
    leading = tokens["mask"].shape
    flat = jax.tree.map(lambda array: array.reshape(-1, *array.shape[2:]), tokens)
    parts = jax.lax.axis_size(VOCAB_AXIS) if is_split else 1
    count = flat["mask"].size
    size = min(chunk_tokens, count)
    size += -size % parts
    order = jnp.argsort(~flat["mask"], stable=True)
    chunks = jnp.pad(order, (0, -count % size)).reshape(-1, size)
    counted = jnp.sum(flat["mask"])
    # All devices take as many turns, since those that share a head must take them together.
    most = jax.lax.pmax(counted, TOKENS) if is_split else counted

    def of_chunk(picked: jax.Array) -> Arrays:
        own = jax.tree.map(lambda array: array[picked], flat)
        logits = jax.lax.dot(own["hidden"], head.astype(own["hidden"].dtype), preferred_element_type=jnp.float32)
        if softcap is not None:
            logits = softcap * jnp.tanh(logits / softcap)
        rest = {name: own[name] for name in ("targets", "positions", "example_numbers")}
        if not is_split:
            return _signal(logits[:, : form.vocab_size], rest, form, seed)
        # From some columns of all tokens to all columns of some tokens, and back when those are worked through.
        logits = jax.lax.all_to_all(logits, VOCAB_AXIS, split_axis=0, concat_axis=1, tiled=True)
        first = jax.lax.axis_index(VOCAB_AXIS) * (size // parts)
        rest = jax.tree.map(lambda array: jax.lax.dynamic_slice_in_dim(array, first, size // parts), rest)
        found = _signal(logits[:, : form.vocab_size], rest, form, seed)
        found = jax.tree.map(lambda array: jax.lax.all_gather(array, VOCAB_AXIS, tiled=True), found)
        return jax.tree.map(lambda array: jax.lax.pmax(array, VOCAB_AXIS), found)

    def turn(chunk: tuple[jax.Array, jax.Array]) -> Arrays:
        number, picked = chunk
        shapes = jax.eval_shape(of_chunk, picked)
        blank = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
        return jax.lax.cond(number * size < most, of_chunk, lambda _: marked_varying(blank, flat["mask"]), picked)

    found = jax.lax.map(turn, (jnp.arange(len(chunks)), chunks))
    back = jnp.argsort(order)
    return jax.tree.map(
        lambda array: array.reshape(-1, *array.shape[2:])[back].reshape(*leading, *array.shape[2:]), found
    )


def _signal(logits: jax.Array, tokens: Arrays, form: SignalFormat, seed: int) -> Arrays:
    """Returns the arrays of tokens whose whole logits `[tokens, vocab]` are there."""
    targets = tokens["targets"]
    if form.kind == "rest_sample":
        return losses.rest_sample(
            teacher_logits=logits, targets=targets, draws=form.draws, keys=_keys(tokens, seed)
        )._asdict()
    if form.kind == "hidden":
        exact = losses.top_k_signal(teacher_logits=logits, targets=targets, k=1)
        return {name: getattr(exact, name) for name in EXACT}
    keys = _keys(tokens, seed) if form.tail_draws else None
    found = losses.top_k_signal(
        teacher_logits=logits, targets=targets, k=form.k, tail_draws=form.tail_draws, keys=keys
    )._asdict()
    tail = found.pop("tail")
    return found if tail is None else found | {"tail_ids": tail.ids, "tail_weights": tail.weights}


def _keys(tokens: Arrays, seed: int) -> jax.Array:
    def of_token(example: jax.Array, position: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), example), position)

    return jax.vmap(of_token)(tokens["example_numbers"], tokens["positions"])


def _stored_hidden(hidden: jax.Array, hidden_type: str) -> Arrays:
    if hidden_type != "int8":
        return {"hidden": hidden.astype(hidden_type)}
    scale = jnp.max(jnp.abs(hidden.astype(jnp.float32)), axis=-1) / _INT8_MOST
    steps = hidden.astype(jnp.float32) / jnp.where(scale > 0, scale, 1)[..., None]
    return {"hidden": jnp.rint(steps).astype(jnp.int8), "scale": scale}
