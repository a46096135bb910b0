"""One layer: attention and MLP, each beside a residual, with norms where the family has them."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from atkd_jax.models.attention import Attention
from atkd_jax.models.config import DecoderConfig
from atkd_jax.models.layer_kinds import LayerKind
from atkd_jax.models.mlp import MLP
from atkd_jax.models.moe import ExpertMLP
from atkd_jax.models.norms import make_norm

INIT_STDDEV = 0.02
Angles = tuple[jax.Array, jax.Array]


class DecoderLayer(nnx.Module):
    """Attention and MLP. Its parameters are stacked over all layers."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs, param_dtype=jnp.float32):
        kinds = {"stack": (config.num_layers,), "param_dtype": param_dtype}
        # The 2 * num_layers products that end in the residual stream start smaller, so that their sum does not grow.
        residual_stddev = INIT_STDDEV * (2 * config.num_layers) ** -0.5
        self.placement = config.norm_placement
        self.is_parallel = config.parallel_residual
        make = partial(make_norm, config.norm, config.width, eps=config.norm_eps, **kinds)
        self.attention_norm, self.mlp_norm = make(), make()
        if config.norm_placement == "sandwich":
            self.attention_post_norm, self.mlp_post_norm = make(), make()
        self.attention = Attention(config, rngs=rngs, stddev=INIT_STDDEV, output_stddev=residual_stddev, **kinds)
        make_mlp = ExpertMLP if config.num_experts else MLP
        self.mlp = make_mlp(config, rngs=rngs, stddev=INIT_STDDEV, down_stddev=residual_stddev, **kinds)

    @property
    def _norms_first(self) -> bool:
        return self.placement in ("pre", "sandwich")

    def queries_keys_values(
        self, x: jax.Array, angles: Angles | None, kind: LayerKind, shape: tuple[int, ...] | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return the heads of the residual stream `x`; see `Attention.queries_keys_values`."""
        own = None if angles is None else (angles[0][kind.rotation], angles[1][kind.rotation])
        x = self.attention_norm(x) if self._norms_first else x
        return self.attention.queries_keys_values(x, own, shape or x.shape[:-1])

    def mlp_inputs(self, x: jax.Array, gathered: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the residual stream that the MLP's result joins, and what the MLP reads.

        The arguments are those of `finish`.
        """
        attended = self.attention.output(gathered)
        if self.is_parallel:
            return x + attended, self.mlp_norm(x)
        x = self._join(x, attended, "attention")
        return x, self.mlp_norm(x) if self._norms_first else x

    def finish(self, x: jax.Array, gathered: jax.Array) -> jax.Array:
        """Return the residual stream after this layer, from `x` before it and what its heads have gathered."""
        x, read = self.mlp_inputs(x, gathered)
        return x + self.mlp(read) if self.is_parallel else self._join(x, self.mlp(read), "mlp")

    def _join(self, x: jax.Array, branch: jax.Array, name: str) -> jax.Array:
        match self.placement:
            case "post":
                return getattr(self, f"{name}_norm")(x + branch)
            case "branch":
                return x + getattr(self, f"{name}_norm")(branch)
            case "sandwich":
                return x + getattr(self, f"{name}_post_norm")(branch)
        return x + branch

    def __call__(
        self, x: jax.Array, segment_ids: jax.Array, angles: Angles | None, kind: LayerKind, mesh: Mesh | None = None
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Return the residual stream after this layer, and the layer's keys and values.

        The stream is [B, T, width], or [B T, width] where T is not split over devices.
        """
        query, key, value = self.queries_keys_values(x, angles, kind, segment_ids.shape)
        gathered = self.attention.causal(query, key, value, segment_ids, kind.window, mesh)
        return self.finish(x, gathered.reshape(*x.shape[:-1], *gathered.shape[-2:])), (key, value)
