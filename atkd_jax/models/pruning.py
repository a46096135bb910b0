"""A shallower copy of a model: some of its layers, in their order, and all that surrounds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from atkd_jax.errors import InputError
from atkd_jax.models.config import DecoderConfig
from atkd_jax.models.decoder import Decoder
from atkd_jax.models.remat import Remat


def evenly_spaced_layers(num_layers: int, keep: int) -> tuple[int, ...]:
    """Return the numbers of `keep` layers out of `num_layers`, from 0, evenly spaced, the first and the last kept.

    Of a single one there is no last: it is the first.

    Raises:
        InputError: where `keep` is not between 1 and `num_layers`.

    >>> evenly_spaced_layers(30, 8)
    (0, 4, 8, 12, 17, 21, 25, 29)
    """
    if not 1 <= keep <= num_layers:
        raise InputError(
            f"evenly_spaced_layers: the number of layers to keep must be between 1 and the model's {num_layers}, got "
            f"{keep}; choose one in between."
        )
    if keep == 1:
        return (0,)
    gaps = keep - 1
    return tuple((2 * i * (num_layers - 1) + gaps) // (2 * gaps) for i in range(keep))


def pruned_config(config: DecoderConfig, kept_layers: Sequence[int]) -> DecoderConfig:
    """Return the config of a model of these layers alone."""

    def of_kept(each: tuple[bool, ...]) -> tuple[bool, ...]:
        return tuple(each[layer] for layer in kept_layers) if each else ()

    return dataclasses.replace(
        config,
        num_layers=len(kept_layers),
        rotary_layers=of_kept(config.rotary_layers),
        windowed_layers=of_kept(config.windowed_layers),
    )


def prune_layers(
    model: Decoder, kept_layers: Sequence[int], *, dtype: Any = None, remat: Remat | None = None
) -> Decoder:
    """Return a model of the kept layers, the embedding, the final norm and the head, all of them float32 copies.

    Args:
        model: the model to take them from; it stays as it is.
        kept_layers: numbers from 0, ascending.
        dtype: of the new model's arithmetic; the old one's if not given.
        remat: what its backward pass recomputes; as in the old one if not given.

    Raises:
        InputError: where `kept_layers` is empty, not ascending, or names a layer that is not there.
    """
    kept = [int(layer) for layer in kept_layers]
    if not kept or kept != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= model.config.num_layers:
        raise InputError(
            f"prune_layers: the layers to keep must be ascending numbers from 0 to {model.config.num_layers - 1}, got "
            f"{list(kept_layers)}; correct the list."
        )
    config = pruned_config(model.config, kept)
    pruned = nnx.eval_shape(
        lambda: Decoder(config, rngs=nnx.Rngs(0), dtype=dtype or model.dtype, remat=remat or model.remat)
    )
    graphdef, _ = nnx.split(pruned)
    index = np.asarray(kept)

    def copy(key_path: tuple[Any, ...], array: jax.Array) -> jax.Array:
        stacked = any(getattr(key, "key", None) == "layers" for key in key_path)
        return jnp.array(array[index] if stacked else array, jnp.float32, copy=True)

    return nnx.merge(graphdef, jax.tree_util.tree_map_with_path(copy, nnx.state(model, nnx.Param)))
