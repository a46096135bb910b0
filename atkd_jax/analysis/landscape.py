"""The loss around a trained student, along directions among its parameters, and how sharply it rises."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from atkd_jax.errors import InputError
from atkd_jax.evaluation.measuring import placed, placed_rows
from atkd_jax.models import Decoder, filter_normalized_direction
from atkd_jax.sharding import replicated
from atkd_jax.teachers import batch_log_probs


class Landscape(NamedTuple):
    """Losses along one direction, or over the plane of two.

    Attributes:
        places: float64 `[points]`, along each direction, from -radius to radius.
        losses: float64 `[points]` or `[points, points]`, in nats a token; the second axis is the second direction's.
        loss: at the origin.
        rise: the sharpness over the radius: the largest loss at a place no further than it, less the origin's.
        curvature: the sharpness at the origin: the second derivative along a direction, mean over the directions, by
            (L(h) - 2 L(0) + L(-h)) / h^2.
    """

    places: np.ndarray
    losses: np.ndarray
    loss: float
    rise: float
    curvature: float

    def to_json(self) -> dict[str, Any]:
        """Returns it as JSON can hold it: a number that is not finite becomes None."""
        flat = [value if math.isfinite(value) else None for value in self.losses.reshape(-1).tolist()]
        size = len(self.places)
        rows = [flat[start : start + size] for start in range(0, len(flat), size)]
        facts = {name: getattr(self, name) for name in ("loss", "rise", "curvature")}
        finite = {name: value if math.isfinite(value) else None for name, value in facts.items()}
        return {"places": self.places.tolist(), "losses": flat if self.losses.ndim == 1 else rows, **finite}


def look_around(
    loss_at: Callable[[Sequence[float]], float],
    *,
    dimensions: int,
    points: int,
    radius: float,
    curvature_step: float,
    on_point: Callable[[int], None] = lambda done: None,
) -> Landscape:
    """Returns the losses at evenly spaced places, and the sharpness.

    Args:
        loss_at: How far along each direction -> the loss.
        dimensions: How many directions there are, 1 or 2.
        points: Along each, an odd number, so that the origin is one.
        radius: How far they go to each side.
        curvature_step: h of the second difference.
        on_point: Is called with the number of losses known after each.
    """
    known: dict[tuple[float, ...], float] = {}

    def at(*offsets: float) -> float:
        if offsets not in known:
            known[offsets] = loss_at(offsets)
            on_point(len(known))
        return known[offsets]

    places = np.linspace(-radius, radius, points)
    places[points // 2] = 0.0  # What rounding leaves there would be another place than the origin.
    losses = np.array([at(*offsets) for offsets in itertools.product(places.tolist(), repeat=dimensions)])
    distances = np.sqrt(sum(axis**2 for axis in np.meshgrid(*[places] * dimensions, indexing="ij"))).reshape(-1)
    origin = at(*[0.0] * dimensions)
    curvatures = []
    for axis in range(dimensions):
        steps = [tuple(sign * curvature_step * (own == axis) for own in range(dimensions)) for sign in (1.0, -1.0)]
        curvatures.append((at(*steps[0]) - 2 * origin + at(*steps[1])) / curvature_step**2)
    within = losses[distances <= radius * (1 + 1e-9)]
    return Landscape(
        places, losses.reshape([points] * dimensions), origin, float(within.max() - origin), float(np.mean(curvatures))
    )


def count_points(*, dimensions: int, points: int) -> int:
    """Returns how many losses `look_around` asks for at most."""
    return points**dimensions + 2 * dimensions


def loss_around(
    model: Decoder, batches: Iterable[Mapping[str, np.ndarray]], *, vocab_size: int, mesh: Mesh
) -> Callable[[int, int], Callable[[Sequence[float]], float]]:
    """Returns `along(seed, dimensions)`: the model's loss as a function of the place along that seed's directions.

    The loss is the mean cross-entropy over the batches' counted tokens in nats, the one that `evaluate` tells; sums
    over batches are in float64. Directions are filter-normalised.

    Args:
        model: The trained student.
        batches: Of `atkd_jax.data.evaluation_batches`; they are kept.
        vocab_size: The tokenizer's number of ids.
        mesh: Parameters and rows are spread over its devices.

    Raises:
        InputError: from the last of these functions, if no token counts.
    """
    graphdef, params = nnx.split(model)
    params = placed(params, mesh)
    rows = [placed_rows(batch, mesh) for batch in batches]

    def sums(params: Any, directions: list[Any], offsets: jax.Array, batch: dict[str, jax.Array]) -> jax.Array:
        for number, direction in enumerate(directions):
            at = offsets[number]
            params = jax.tree.map(lambda own, way, at=at: own + (at * way).astype(own.dtype), params, direction)
        log_probs, mask = batch_log_probs(graphdef, params, batch=batch, vocab_size=vocab_size, mesh=mesh)
        return jnp.stack([-jnp.sum(log_probs), jnp.sum(mask, dtype=jnp.float32)])

    compiled = jax.jit(sums, out_shardings=replicated(mesh))
    draw = jax.jit(filter_normalized_direction)

    def along(seed: int, dimensions: int) -> Callable[[Sequence[float]], float]:
        keys = jax.random.split(jax.random.key(seed), dimensions)
        directions = [placed(draw(params, key), mesh) for key in keys]

        def loss_at(offsets: Sequence[float]) -> float:
            place = jnp.asarray(offsets, jnp.float32)
            parts = [np.asarray(compiled(params, directions, place, batch)) for batch in rows]
            loss, count = np.stack(parts).sum(axis=0, dtype=np.float64).tolist() if parts else (0.0, 0.0)
            if not count:
                raise InputError("landscape: no token of the split counts; its responses are empty or cut off")
            return loss / count

        return loss_at

    return along
