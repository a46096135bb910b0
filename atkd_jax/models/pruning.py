"""A smaller copy of a model: some of its layers, MLP units and heads, and all that surrounds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from atkd_jax.errors import InputError
from atkd_jax.models.config import DecoderConfig
from atkd_jax.models.decoder import Decoder
from atkd_jax.models.logical_axes import axes_of, parameter_path
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


Numbers = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Pruning:
    """What is kept of a model.

    Attributes:
        layers: their numbers from 0, ascending.
        mlp_units: per kept layer, which units of its MLP, ascending; None for all.
        kv_heads: per kept layer, which key-value heads, ascending, each with the query heads that it serves; None for
            all.
    """

    layers: tuple[int, ...]
    mlp_units: Numbers | None = None
    kv_heads: Numbers | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Pruning:
        """Return what `to_json` wrote."""

        def rows(name: str) -> Numbers | None:
            found = raw[name]
            return None if found is None else tuple(tuple(int(number) for number in row) for row in found)

        return cls(tuple(int(layer) for layer in raw["layers"]), rows("mlp_units"), rows("kv_heads"))


def pruned_config(config: DecoderConfig, pruning: Pruning) -> DecoderConfig:
    """Return the config of what is kept."""

    def of_kept(each: tuple[bool, ...]) -> tuple[bool, ...]:
        return tuple(each[layer] for layer in pruning.layers) if each else ()

    kv_heads = config.num_kv_heads if pruning.kv_heads is None else len(pruning.kv_heads[0])
    return dataclasses.replace(
        config,
        num_layers=len(pruning.layers),
        rotary_layers=of_kept(config.rotary_layers),
        windowed_layers=of_kept(config.windowed_layers),
        mlp_width=config.mlp_width if pruning.mlp_units is None else len(pruning.mlp_units[0]),
        num_kv_heads=kv_heads,
        num_heads=kv_heads * (config.num_heads // config.num_kv_heads),
    )


def _check(config: DecoderConfig, pruning: Pruning) -> None:
    kept = list(pruning.layers)
    if not kept or kept != sorted(set(kept)) or kept[0] < 0 or kept[-1] >= config.num_layers:
        raise InputError(
            f"prune_model: the layers to keep must be ascending numbers from 0 to {config.num_layers - 1}, got {kept}; "
            "correct the list."
        )
    for name, size in (("mlp_units", config.mlp_width), ("kv_heads", config.num_kv_heads)):
        rows: Numbers | None = getattr(pruning, name)
        if rows is None:
            continue
        lengths = {len(row) for row in rows}
        in_order = all(list(row) == sorted(set(row)) and row and row[0] >= 0 and row[-1] < size for row in rows)
        if len(rows) != len(kept) or len(lengths) != 1 or not in_order:
            raise InputError(
                f"prune_model: {name} must list, for each of the {len(kept)} kept layers, equally many ascending "
                f"numbers from 0 to {size - 1}, got {len(rows)} lists of lengths {sorted(lengths)}; correct them."
            )


def prune_model(model: Decoder, pruning: Pruning, *, dtype: Any = None, remat: Remat | None = None) -> Decoder:
    """Return a model of what is kept, with the embedding, the final norm and the head, all of them float32 copies.

    Args:
        model: the model to take them from; it stays as it is.
        pruning: what to keep.
        dtype: of the new model's arithmetic; the old one's if not given.
        remat: what its backward pass recomputes; as in the old one if not given.

    Raises:
        InputError: where `pruning` is empty, not ascending, or names what is not there.
    """
    _check(model.config, pruning)
    config = pruned_config(model.config, pruning)
    pruned = nnx.eval_shape(
        lambda: Decoder(config, rngs=nnx.Rngs(0), dtype=dtype or model.dtype, remat=remat or model.remat)
    )
    pruned.attend_by(model.layers.attention.kernel)
    graphdef, abstract = nnx.split(pruned)
    group = model.config.num_heads // model.config.num_kv_heads
    kept: dict[str | None, np.ndarray] = {}
    if pruning.mlp_units is not None:
        kept["mlp"] = np.asarray(pruning.mlp_units)
    if pruning.kv_heads is not None:
        kept["kv_heads"] = np.asarray(pruning.kv_heads)
        heads = group * kept["kv_heads"][:, :, None] + np.arange(group)
        kept["heads"] = heads.reshape(len(heads), -1)

    def copy(key_path: tuple[Any, ...], array: jax.Array, new: jax.ShapeDtypeStruct) -> jax.Array:
        path = parameter_path(key_path)
        if not path.startswith("layers."):
            return jnp.array(array, jnp.float32, copy=True)
        own = jnp.array(array[np.asarray(pruning.layers)], jnp.float32, copy=True)
        return _of_kept_parts(path, own, kept, model.config.head_dim).reshape(new.shape)

    return nnx.merge(graphdef, jax.tree_util.tree_map_with_path(copy, nnx.state(model, nnx.Param), abstract))


def _of_kept_parts(path: str, array: jax.Array, kept: Mapping[str | None, np.ndarray], head_dim: int) -> jax.Array:
    """Return a stacked parameter of the kept layers with only the kept numbers along its axes."""
    axes: Sequence[str | None] = axes_of(path)
    if "_norm." in path and path.startswith("layers.attention.") and array.shape[-1] != head_dim:
        # The norm of all heads together: their elements one after the other.
        axes = ("layers", "kv_heads" if ".key_norm." in path else "heads", None)
        array = array.reshape(array.shape[0], -1, head_dim)
    for number, name in enumerate(axes):
        if name in kept:
            index = kept[name].reshape(kept[name].shape[0], *(1,) * (number - 1), -1, *(1,) * (array.ndim - number - 1))
            array = jnp.take_along_axis(array, index, axis=number)
    return array


def most_important(scores: np.ndarray, keep: int) -> tuple[int, ...]:
    """Return the numbers of the `keep` largest scores, ascending; of equal ones the first.

    >>> most_important(np.array([0.1, 0.9, 0.5, 0.9]), 2)
    (1, 3)
    """
    order = np.argsort(-np.asarray(scores), kind="stable")[:keep]
    return tuple(sorted(int(number) for number in order))
