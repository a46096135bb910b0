"""The decoder: embedding, a scan over the stacked layers, the final norm and the head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from atkd_jax.errors import InputError
from atkd_jax.models.attention import AttentionKernel, attention_mask
from atkd_jax.models.cache import KVCache
from atkd_jax.models.config import DecoderConfig
from atkd_jax.models.layer import INIT_STDDEV, Angles, DecoderLayer
from atkd_jax.models.layer_kinds import LayerKind, layer_kinds
from atkd_jax.models.linear import Linear
from atkd_jax.models.norms import make_norm
from atkd_jax.models.quantized_array import dequantized
from atkd_jax.models.remat import Remat, check_remat, rematerialised
from atkd_jax.models.rope_scaling import LongRopeScaling
from atkd_jax.sharding import SEQUENCE_AXIS, constrain

# The window of a layer -> who may look at whom.
Masks = Callable[[int | jax.Array | None], jax.Array]


class Decoder(nnx.Module):
    """A decoder-only language model.

    Args:
        config: shape and switches; kept at `.config`.
        rngs: its `params` stream draws the initial weights.
        dtype: of the arithmetic. Parameters are cast to it layer by layer; norms, rotary angles, attention scores and
            logits stay float32.
        param_dtype: of the parameters.
        remat: what the backward pass recomputes; see `models.remat`.
    """

    is_quantized: bool = False
    """Whether embedding and head are stored as integers; `models.quantization` sets it."""
    embedding_scale: nnx.Param
    head_scale: nnx.Param

    def __init__(
        self,
        config: DecoderConfig,
        *,
        rngs: nnx.Rngs,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
        remat: Remat = "none",
    ):
        check_remat(remat)
        self.config = config
        self.dtype = dtype
        self.remat: Remat = remat
        kinds = {"rngs": rngs, "stddev": INIT_STDDEV, "param_dtype": param_dtype}

        def table(*shape: int) -> nnx.Param:
            return nnx.Param((INIT_STDDEV * jax.random.normal(rngs.params(), shape, jnp.float32)).astype(param_dtype))

        self.embedding = table(config.vocab_size, config.head_width)
        if config.positions == "learned":
            self.position_embedding = table(config.position_offset + config.max_position, config.width)
        self.layers = DecoderLayer(config, rngs=rngs, param_dtype=param_dtype)
        if config.final_norm:
            self.final_norm = make_norm(config.norm, config.width, eps=config.norm_eps, param_dtype=param_dtype)
        if config.embed_width is not None:
            self.project_in = Linear((config.embed_width,), (config.width,), **kinds)
            self.project_out = Linear((config.width,), (config.embed_width,), **kinds)
        if not config.tie_embeddings:
            self.head = table(config.head_width, config.vocab_size)

    @property
    def logit_softcap(self) -> float | None:
        """c, where logits z of `head_matrix` become c tanh(z / c); None where they stay as they are."""
        return self.config.logit_softcap

    @property
    def rotation_limit(self) -> int | None:
        """The number of tokens beyond which a whole text, its first tokens too, is turned by other frequencies.

        None where that never happens. (Scaling of NTK's kind changes them with every token; nobody computes that anew.)
        """
        scaling = self.config.rope_scaling
        return scaling.original_max_position if isinstance(scaling, LongRopeScaling) else None

    @property
    def learned_positions(self) -> int | None:
        """How many tokens a text may have; None where positions are turned, which limits nothing."""
        return self.config.max_position if self.config.positions == "learned" else None

    def attend_by(self, kernel: AttentionKernel) -> None:
        """Say who computes attention over whole rows from now on; see `Attention.kernel`."""
        self.layers.attention.kernel = kernel

    def _rows_of_embedding(self, tokens: jax.Array) -> jax.Array:
        rows = self.embedding[...][tokens]
        return dequantized(rows, self.embedding_scale[...][tokens]) if self.is_quantized else rows

    def _embed(self, tokens: jax.Array, positions: jax.Array, *, room: int | None = None) -> jax.Array:
        """Return the residual stream before the first layer.

        Args:
            tokens: int [B, T].
            positions: int [B, T]. Those of tokens that nobody looks at may be any.
            room: no position may reach it; None where the caller has seen to it that they fit.
        """
        x = self._rows_of_embedding(tokens).astype(self.dtype)
        if self.config.scale_embeddings:
            x = x * jnp.asarray(self.config.width**0.5, self.dtype)
        if self.config.embed_width is not None:
            x = self.project_in(x)
        if self.learned_positions is not None:
            if room is not None and room > self.learned_positions:
                raise InputError(
                    f"Decoder: a row must have at most the {self.learned_positions} tokens that the model has "
                    f"learned positions for, got {room}; shorten data.sequence_length or the answers."
                )
            rows = jnp.minimum(positions, self.learned_positions - 1) + self.config.position_offset
            x = x + self.position_embedding[...][rows].astype(self.dtype)
        return x

    def _unembed(self, x: jax.Array) -> jax.Array:
        """Return what the head turns into logits, from the residual stream after the last layer."""
        x = self.final_norm(x) if self.config.final_norm else x
        return x if self.config.embed_width is None else self.project_out(x)

    def _angles(self, positions: jax.Array, segment_ids: jax.Array | None = None) -> Angles | None:
        return layer_kinds(self.config).angles(positions, segment_ids)

    def _scanned(self) -> tuple[nnx.GraphDef, tuple[Any, LayerKind | None]]:
        """Return the layers' structure, and what a scan takes apart: weights, and kinds where they differ."""
        kinds = layer_kinds(self.config)
        graphdef, stacked = nnx.split(self.layers)
        return graphdef, (stacked, None if kinds.shared() else kinds.stacked())

    def hidden_states(
        self,
        tokens: jax.Array,
        *,
        positions: jax.Array | None = None,
        segment_ids: jax.Array | None = None,
        mesh: Mesh | None = None,
    ) -> jax.Array:
        """Return the states that the head turns into logits: [B, T, head_width] in `dtype`.

        A token sees itself and the tokens before it in its own segment. Segment 0 is padding: no other segment sees
        it, and what stands there in the result is finite and without meaning.

        Args:
            tokens: int [B, T].
            positions: int [B, T], restarting in every segment; 0, 1, 2, ... if not given.
            segment_ids: int [B, T]; all one segment if not given.
            mesh: where rows, tokens and heads are split, by `atkd_jax.sharding`; the compiler decides if not given.
        """
        return self._run_layers(tokens, positions, segment_ids, keep_heads=False, mesh=mesh)[0]

    def _run_layers(
        self,
        tokens: jax.Array,
        positions: jax.Array | None,
        segment_ids: jax.Array | None,
        *,
        keep_heads: bool,
        mesh: Mesh | None = None,
    ) -> tuple[jax.Array, Any]:
        """Return the final states and, if they are to be kept, all layers' keys and values, stacked.

        Who keeps them has padded prompts, and has seen to it that these fit learned positions.
        """
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        if segment_ids is None:
            segment_ids = jnp.ones_like(tokens)
        angles, shared = self._angles(positions, segment_ids), layer_kinds(self.config).shared()
        graphdef, scanned = self._scanned()

        def body(x, layer):
            params, kind = layer
            x, keys_values = nnx.merge(graphdef, params)(x, segment_ids, angles, shared or kind, mesh)
            return constrain(x, mesh, *axes), keys_values if keep_heads else None

        room = None if keep_heads else tokens.shape[1]
        x = constrain(self._embed(tokens, positions, room=room), mesh, "rows", "length", "width")
        axes = ("rows", "length", "width")
        if mesh is None or mesh.shape[SEQUENCE_AXIS] == 1:
            # One axis of tokens, unless each device has its part of every row, which no such axis expresses.
            x, axes = x.reshape(-1, x.shape[-1]), ("tokens", "width")
        x, keys_values = jax.lax.scan(rematerialised(body, self.remat), x, scanned)
        return self._unembed(x.reshape(*tokens.shape, -1)), keys_values

    def observe_layers(
        self,
        observe: Callable[[DecoderLayer, jax.Array, Angles | None, LayerKind], tuple[jax.Array, Any]],
        *,
        tokens: jax.Array,
        positions: jax.Array,
    ) -> Any:
        """Return what `observe` gives beside the residual stream, stacked over the layers.

        Args:
            observe: (layer, residual stream before it, angles, kind) -> the residual stream after it, anything.
            tokens: int [B, T].
            positions: int [B, T].
        """
        angles, shared = self._angles(positions), layer_kinds(self.config).shared()
        graphdef, scanned = self._scanned()

        def body(x, layer):
            params, kind = layer
            return observe(nnx.merge(graphdef, params), x, angles, shared or kind)

        return jax.lax.scan(body, self._embed(tokens, positions, room=tokens.shape[1]), scanned)[1]

    def head_matrix(self) -> jax.Array:
        """Return the matrix that turns hidden states into logits: [head_width, vocab] in the parameters' dtype.

        Where the model has a `logit_softcap`, that comes after it. No family has a bias here.
        """
        if not self.is_quantized:
            return self.embedding[...].T if self.config.tie_embeddings else self.head[...]
        if self.config.tie_embeddings:
            return dequantized(self.embedding[...], self.embedding_scale[...]).T
        return dequantized(self.head[...], self.head_scale[...])

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Return float32 logits [..., vocab] of states [..., head_width]: factors in `dtype`, sums in float32."""
        rows = hidden.astype(self.dtype).reshape(-1, hidden.shape[-1])
        logits = jnp.matmul(rows, self.head_matrix().astype(self.dtype), preferred_element_type=jnp.float32)
        if self.logit_softcap is not None:
            logits = self.logit_softcap * jnp.tanh(logits / self.logit_softcap)
        return logits.reshape(*hidden.shape[:-1], -1)

    def __call__(
        self, tokens: jax.Array, *, positions: jax.Array | None = None, segment_ids: jax.Array | None = None
    ) -> jax.Array:
        """Return float32 logits [B, T, vocab]; the arguments are those of `hidden_states`."""
        return self.logits(self.hidden_states(tokens, positions=positions, segment_ids=segment_ids))

    def init_cache(self, batch_size: int, max_length: int) -> KVCache:
        """Return an empty cache for `batch_size` rows of at most `max_length` tokens, padding included."""
        return KVCache.empty(self.config, batch_size, max_length, self.dtype)

    def prefill(
        self, tokens: jax.Array, *, positions: jax.Array, segment_ids: jax.Array, max_length: int
    ) -> tuple[jax.Array, KVCache]:
        """Return what `decode` would return for the first tokens of an empty cache of `max_length` slots.

        It is one pass over the tokens alone, which meets no empty slots. Padding takes no learned position.
        """
        hidden, (key, value) = self._run_layers(tokens, positions, segment_ids, keep_heads=True)
        room = max_length - tokens.shape[1]
        if room < 0:
            raise ValueError(f"prefill: max_length must be at least the {tokens.shape[1]} tokens, got {max_length}.")
        slots = ((0, 0), (0, 0), (0, 0), (0, room), (0, 0))
        cache = KVCache(
            key=jnp.pad(key, slots),
            value=jnp.pad(value, slots),
            segment_ids=jnp.pad(segment_ids.astype(jnp.int32), ((0, 0), (0, room))),
            length=jnp.asarray(tokens.shape[1], jnp.int32),
        )
        return hidden, cache

    def unstacked_layers(self) -> list[DecoderLayer]:
        """Return the layers one by one, each with its own copy of its parameters.

        A loop that runs the layers many times, as decoding does, saves by them what taking the stack apart costs.
        """
        graphdef, stacked = nnx.split(self.layers)
        layers = range(self.config.num_layers)
        return [nnx.merge(graphdef, jax.tree.map(lambda stack, i=i: stack[i], stacked)) for i in layers]

    def decode(
        self,
        tokens: jax.Array,
        *,
        positions: jax.Array,
        cache: KVCache,
        segment_ids: jax.Array | None = None,
        layers: Sequence[DecoderLayer] | None = None,
    ) -> tuple[jax.Array, KVCache]:
        """Return the states of `tokens` as `hidden_states` does, [B, S, head_width], and the cache extended by them.

        A whole prompt and a single next token go through alike. Prompts of unequal length stand at the right of their
        rows, and the padding before them is segment 0.

        Where rotary frequencies depend on a text's length, it is the length up to the call's last token, and what is in
        the cache stays as it was turned; `rotation_limit` says when a caller may want it anew.

        Args:
            tokens: int [B, S], written to the next S slots. The caller sees to it that there are so many left.
            positions: int [B, S], counted from the row's first token that is no padding. The caller sees to it that
                those of rows that go on are below `learned_positions`.
            cache: from `init_cache`, `prefill` or the last call.
            segment_ids: int [B, S]; all segment 1 if not given.
            layers: from `unstacked_layers`, with a cache that is `unstacked` too; the stack is scanned if not given.
        """
        if segment_ids is None:
            segment_ids = jnp.ones_like(tokens)
        start = cache.length
        segments = jax.lax.dynamic_update_slice_in_dim(cache.segment_ids, segment_ids.astype(jnp.int32), start, axis=1)
        masks = partial(
            attention_mask,
            query_segments=segment_ids,
            key_segments=segments,
            query_slots=start + jnp.arange(tokens.shape[1]),
            key_slots=jnp.arange(segments.shape[1]),
        )
        run = self._decode_stack if layers is None else partial(self._decode_layers, layers)
        x, angles = self._embed(tokens, positions), self._angles(positions, segment_ids)
        x, keys, values = run(x, lambda window: masks(window=window), angles, cache)
        cache = KVCache(key=keys, value=values, segment_ids=segments, length=start + tokens.shape[1])
        return self._unembed(x), cache

    def _decode_stack(self, x: jax.Array, masks: Masks, angles: Angles | None, cache: KVCache):
        graphdef, scanned = self._scanned()
        shared = layer_kinds(self.config).shared()

        def body(carry, numbered):
            x, keys, values = carry
            number, (params, kind) = numbered
            kind = shared or kind
            layer = nnx.merge(graphdef, params)
            query, key, value = layer.queries_keys_values(x, angles, kind)
            # The whole cache is carried and written in place; given out layer by layer it would be copied every time.
            at = (number, 0, 0, cache.length, 0)
            keys = jax.lax.dynamic_update_slice(keys, key[None], at)
            values = jax.lax.dynamic_update_slice(values, value[None], at)
            gathered = layer.attention.masked(query, keys[number], values[number], masks(kind.window))
            return (layer.finish(x, gathered), keys, values), None

        numbers = jnp.arange(self.config.num_layers)
        (x, keys, values), _ = jax.lax.scan(body, (x, cache.key, cache.value), (numbers, scanned))
        return x, keys, values

    def _decode_layers(
        self, layers: Sequence[DecoderLayer], x: jax.Array, masks: Masks, angles: Angles | None, cache: KVCache
    ):
        all_keys, all_values = [], []
        of_layers = zip(layers, layer_kinds(self.config).each, cache.key, cache.value, strict=True)
        for layer, kind, keys, values in of_layers:
            query, key, value = layer.queries_keys_values(x, angles, kind)
            keys = jax.lax.dynamic_update_slice_in_dim(keys, key, cache.length, axis=2)
            values = jax.lax.dynamic_update_slice_in_dim(values, value, cache.length, axis=2)
            x = layer.finish(x, layer.attention.masked(query, keys, values, masks(kind.window)))
            all_keys.append(keys)
            all_values.append(values)
        return x, tuple(all_keys), tuple(all_values)
