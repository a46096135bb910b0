"""The decoder: embedding, a scan over the stacked layers, the final norm and the head."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from atkd_jax.models.attention import Attention, attention_mask, causal_attention, grouped_query_attention
from atkd_jax.models.cache import KVCache
from atkd_jax.models.config import DecoderConfig
from atkd_jax.models.layers import GatedMLP, RMSNorm
from atkd_jax.models.remat import GATHERED, Remat, check_remat, rematerialised
from atkd_jax.models.rotary import rotary_angles

Angles = tuple[jax.Array, jax.Array]
_INIT_STDDEV = 0.02


class DecoderLayer(nnx.Module):
    """Attention and MLP, each behind a norm and beside a residual. Its parameters are stacked over all layers."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs, param_dtype=jnp.float32):
        kinds = {"stack": (config.num_layers,), "param_dtype": param_dtype}
        # The 2 * num_layers products that end in the residual stream start smaller, so that their sum does not grow.
        residual_stddev = _INIT_STDDEV * (2 * config.num_layers) ** -0.5
        self.attention_norm = RMSNorm(config.width, eps=config.norm_eps, **kinds)
        self.attention = Attention(
            config.width,
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
            rngs=rngs,
            stddev=_INIT_STDDEV,
            output_stddev=residual_stddev,
            **kinds,
        )
        self.mlp_norm = RMSNorm(config.width, eps=config.norm_eps, **kinds)
        self.mlp = GatedMLP(
            config.width,
            config.mlp_width,
            activation=config.activation,
            rngs=rngs,
            stddev=_INIT_STDDEV,
            down_stddev=residual_stddev,
            **kinds,
        )

    def queries_keys_values(self, x: jax.Array, angles: Angles) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return the heads of the residual stream `x`; see `Attention.queries_keys_values`."""
        return self.attention.queries_keys_values(self.attention_norm(x), angles)

    def finish(self, x: jax.Array, gathered: jax.Array) -> jax.Array:
        """Return the residual stream after this layer, from `x` before it and what its heads have gathered."""
        x = x + self.attention.output(gathered)
        return x + self.mlp(self.mlp_norm(x))

    def __call__(
        self, x: jax.Array, segment_ids: jax.Array, angles: Angles
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Return the residual stream [B, T, width] after this layer, and the layer's keys and values."""
        query, key, value = self.queries_keys_values(x, angles)
        gathered = checkpoint_name(causal_attention(query, key, value, segment_ids), GATHERED)
        return self.finish(x, gathered), (key, value)


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
        embedding = _INIT_STDDEV * jax.random.normal(rngs.params(), (config.vocab_size, config.width), jnp.float32)
        self.embedding = nnx.Param(embedding.astype(param_dtype))
        self.layers = DecoderLayer(config, rngs=rngs, param_dtype=param_dtype)
        self.final_norm = RMSNorm(config.width, eps=config.norm_eps, param_dtype=param_dtype)
        if not config.tie_embeddings:
            head = _INIT_STDDEV * jax.random.normal(rngs.params(), (config.width, config.vocab_size), jnp.float32)
            self.head = nnx.Param(head.astype(param_dtype))

    def _embed(self, tokens: jax.Array) -> jax.Array:
        return self.embedding[...][tokens].astype(self.dtype)

    def hidden_states(
        self, tokens: jax.Array, *, positions: jax.Array | None = None, segment_ids: jax.Array | None = None
    ) -> jax.Array:
        """Return the states after the final norm: [B, T, width] in `dtype`.

        A token sees itself and the tokens before it in its own segment. Segment 0 is padding: no other segment sees
        it, and what stands there in the result is finite and without meaning.

        Args:
            tokens: int [B, T].
            positions: int [B, T], restarting in every segment; 0, 1, 2, ... if not given.
            segment_ids: int [B, T]; all one segment if not given.
        """
        return self._run_layers(tokens, positions, segment_ids, keep_heads=False)[0]

    def _run_layers(
        self, tokens: jax.Array, positions: jax.Array | None, segment_ids: jax.Array | None, *, keep_heads: bool
    ) -> tuple[jax.Array, Any]:
        """Return the final states and, if they are to be kept, all layers' keys and values, stacked."""
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        if segment_ids is None:
            segment_ids = jnp.ones_like(tokens)
        angles = rotary_angles(self.config, positions)
        graphdef, stacked = nnx.split(self.layers)

        def body(x, params):
            x, keys_values = nnx.merge(graphdef, params)(x, segment_ids, angles)
            return x, keys_values if keep_heads else None

        x, keys_values = jax.lax.scan(rematerialised(body, self.remat), self._embed(tokens), stacked)
        return self.final_norm(x), keys_values

    def head_matrix(self) -> jax.Array:
        """Return the matrix that turns hidden states into logits: [width, vocab] in the parameters' dtype."""
        return self.embedding[...].T if self.config.tie_embeddings else self.head[...]

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Return float32 logits [..., vocab] of hidden states [..., width]: factors in `dtype`, sums in float32."""
        rows = hidden.astype(self.dtype).reshape(-1, hidden.shape[-1])
        logits = jnp.matmul(rows, self.head_matrix().astype(self.dtype), preferred_element_type=jnp.float32)
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

        It is one pass over the tokens alone, which meets no empty slots.
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
        """Return the states of `tokens` after the final norm, [B, S, width], and the cache extended by them.

        A whole prompt and a single next token go through alike. Prompts of unequal length stand at the right of their
        rows, and the padding before them is segment 0.

        Args:
            tokens: int [B, S], written to the next S slots. The caller sees to it that there are so many left.
            positions: int [B, S], counted from the row's first token that is no padding.
            cache: from `init_cache`, `prefill` or the last call.
            segment_ids: int [B, S]; all segment 1 if not given.
            layers: from `unstacked_layers`, with a cache that is `unstacked` too; the stack is scanned if not given.
        """
        if segment_ids is None:
            segment_ids = jnp.ones_like(tokens)
        start = cache.length
        segments = jax.lax.dynamic_update_slice_in_dim(cache.segment_ids, segment_ids.astype(jnp.int32), start, axis=1)
        mask = attention_mask(
            query_segments=segment_ids,
            key_segments=segments,
            query_slots=start + jnp.arange(tokens.shape[1]),
            key_slots=jnp.arange(segments.shape[1]),
        )
        angles = rotary_angles(self.config, positions)
        run = self._decode_stack if layers is None else partial(_decode_layers, layers)
        x, keys, values = run(self._embed(tokens), mask, angles, cache)
        cache = KVCache(key=keys, value=values, segment_ids=segments, length=start + tokens.shape[1])
        return self.final_norm(x), cache

    def _decode_stack(self, x: jax.Array, mask: jax.Array, angles: Angles, cache: KVCache):
        graphdef, stacked = nnx.split(self.layers)

        def body(carry, numbered):
            x, keys, values = carry
            number, params = numbered
            layer = nnx.merge(graphdef, params)
            query, key, value = layer.queries_keys_values(x, angles)
            # The whole cache is carried and written in place; given out layer by layer it would be copied every time.
            at = (number, 0, 0, cache.length, 0)
            keys = jax.lax.dynamic_update_slice(keys, key[None], at)
            values = jax.lax.dynamic_update_slice(values, value[None], at)
            x = layer.finish(x, grouped_query_attention(query, keys[number], values[number], mask))
            return (x, keys, values), None

        numbers = jnp.arange(self.config.num_layers)
        (x, keys, values), _ = jax.lax.scan(body, (x, cache.key, cache.value), (numbers, stacked))
        return x, keys, values


def _decode_layers(layers: Sequence[DecoderLayer], x: jax.Array, mask: jax.Array, angles: Angles, cache: KVCache):
    all_keys, all_values = [], []
    for layer, keys, values in zip(layers, cache.key, cache.value, strict=True):
        query, key, value = layer.queries_keys_values(x, angles)
        keys = jax.lax.dynamic_update_slice_in_dim(keys, key, cache.length, axis=2)
        values = jax.lax.dynamic_update_slice_in_dim(values, value, cache.length, axis=2)
        x = layer.finish(x, grouped_query_attention(query, keys, values, mask))
        all_keys.append(keys)
        all_values.append(values)
    return x, tuple(all_keys), tuple(all_values)
