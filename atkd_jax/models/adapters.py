"""Adapters of low rank beside frozen kernels (LoRA; Hu et al., 2021, arXiv 2106.09685)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import jax
import jax.numpy as jnp
from flax import nnx

from atkd_jax.errors import InputError
from atkd_jax.models.decoder import Decoder
from atkd_jax.models.linear import Linear

# Names of the products that may have one, and where they are.
TARGETS = {
    "query": "layers.attention.query",
    "key": "layers.attention.key",
    "value": "layers.attention.value",
    "output": "layers.attention.output",
    "gate": "layers.mlp.gate",
    "up": "layers.mlp.up",
    "down": "layers.mlp.down",
}


def _target(model: Decoder, name: str) -> Linear:
    room = model.layers.attention if name in ("query", "key", "value", "output") else model.layers.mlp
    linear = getattr(room, name, None)
    if linear is None:
        known = [each for each in TARGETS if hasattr(model.layers.attention, each) or hasattr(model.layers.mlp, each)]
        raise InputError(
            f"student.lora.targets must name products of the family {model.config.family}, which are "
            f"{', '.join(known)}, but has {name}; leave it out."
        )
    return linear


def add_adapters(model: Decoder, *, rank: int, alpha: float, targets: Sequence[str], rngs: nnx.Rngs) -> None:
    """Put an adapter beside each target: y = x W + (alpha / rank) (x A) B, with B = 0, so that nothing changes yet.

    Args:
        model: whose modules get them; its other parameters stay as they are.
        rank: of A B.
        alpha: see above.
        targets: names in `TARGETS`.
        rngs: its `params` stream draws A, uniform within 1 / sqrt(inputs).

    Raises:
        InputError: where a target is no product of the model.
    """
    for name in targets:
        linear = _target(model, name)
        shape = linear.kernel[...].shape
        first = len(shape) - linear.num_inputs - linear.num_outputs
        end = first + linear.num_inputs
        stack, inputs, outputs = shape[:first], shape[first:end], shape[end:]
        bound = prod(inputs) ** -0.5
        drawn = jax.random.uniform(rngs.params(), (*stack, *inputs, rank), jnp.float32, -bound, bound)
        linear.adapter_in = nnx.LoRAParam(drawn)
        linear.adapter_out = nnx.LoRAParam(jnp.zeros((*stack, rank, *outputs), jnp.float32))
        linear.adapter_scale = alpha / rank


def merge_adapters(model: Decoder) -> None:
    """Add every adapter's product to its kernel, in the kernel's type, and take the adapters away."""
    for _, module in list(nnx.iter_modules(model)):
        if not isinstance(module, Linear) or module.adapter_scale is None:
            continue
        low_rank, outputs = module.adapter_in[...], module.adapter_out[...]
        stack = low_rank.shape[: low_rank.ndim - module.num_inputs - 1]
        rank = low_rank.shape[-1]
        kernel = module.kernel[...]
        product = jnp.matmul(
            low_rank.reshape(*stack, -1, rank), outputs.reshape(*stack, rank, -1), precision="highest"
        ).reshape(kernel.shape)
        merged = kernel.astype(jnp.float32) + jnp.float32(module.adapter_scale) * product
        module.kernel = nnx.Param(merged.astype(kernel.dtype))
        del module.adapter_in, module.adapter_out
        module.adapter_scale = None


def split_trained(model: Decoder) -> tuple[nnx.GraphDef[Decoder], nnx.State, tuple[nnx.State, ...]]:
    """Return the structure, what is trained, and what stays: all and nothing, or adapters and the rest.

    `nnx.merge(structure, trained, *frozen)` is the model.
    """
    linears = [module for _, module in nnx.iter_modules(model) if isinstance(module, Linear)]
    if all(linear.adapter_scale is None for linear in linears):
        graphdef, params = nnx.split(model)
        return graphdef, params, ()
    graphdef, adapters, frozen = nnx.split(model, nnx.LoRAParam, ...)
    return graphdef, adapters, (frozen,)
