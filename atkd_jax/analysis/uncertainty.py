"""How sure a teacher is of held-out tokens: UNC = 1 - p(target), as values, quantiles and a density."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from scipy import stats

from atkd_jax.errors import InputError
from atkd_jax.evaluation.measuring import placed, placed_rows
from atkd_jax.models import Decoder
from atkd_jax.sharding import replicated
from atkd_jax.teachers import batch_log_probs

QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
# The paper calls tokens below it those of which the teacher is sure.
SURE_BELOW = 0.1


def token_uncertainties(
    model: Decoder,
    batches: Iterable[Mapping[str, np.ndarray]],
    *,
    vocab_size: int,
    mesh: Mesh,
    on_batch: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Returns UNC of every counted token, float32 `[tokens]`, in 0..1.

    Args:
        model: The teacher.
        batches: Of `atkd_jax.data.evaluation_batches`.
        vocab_size: The tokenizer's number of ids.
        mesh: Parameters and rows are spread over its devices.
        on_batch: Is called with the number of batches done after each.

    Raises:
        InputError: No token counts.

    Reference: Zhong et al. 2024 (arXiv 2402.11890), section 3.
    """
    graphdef, params = nnx.split(model)
    params = placed(params, mesh)

    def step(params: Any, batch: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        log_probs, mask = batch_log_probs(graphdef, params, batch=batch, vocab_size=vocab_size, mesh=mesh)
        return -jnp.expm1(log_probs), mask

    compiled = jax.jit(step, out_shardings=replicated(mesh))
    found = []
    for done, batch in enumerate(batches, start=1):
        values, mask = map(np.asarray, compiled(params, placed_rows(batch, mesh)))
        found.append(values[mask])
        on_batch(done)
    whole = np.concatenate(found) if found else np.zeros(0, np.float32)
    if not whole.size:
        raise InputError("uncertainty: no token of the split counts; its responses are empty or cut off")
    return whole


def describe(values: np.ndarray) -> dict[str, float]:
    """Returns tokens, mean, the share below 0.1, and quantiles such as `q0.5`.

    Example:
        >>> found = describe(np.array([0.0, 0.05, 0.2, 0.75]))
        >>> found["tokens"], found["mean"], found["share_below_0.1"], found["q0.5"]
        (4, 0.25, 0.5, 0.125)
    """
    values = values.astype(np.float64)
    facts = {"tokens": len(values), "mean": float(values.mean())}
    facts[f"share_below_{SURE_BELOW}"] = float((values < SURE_BELOW).mean())
    return facts | {f"q{level}": float(np.quantile(values, level)) for level in QUANTILES}


def density(values: np.ndarray, *, points: int = 201, most_values: int = 5000) -> tuple[np.ndarray, np.ndarray]:
    """Returns places from 0 to 1 and a kernel density there, which integrates to 1 over them.

    Gaussian kernels with Scott's bandwidth; what reaches beyond 0 or 1 is folded back.

    Args:
        values: In 0..1.
        points: How many places.
        most_values: Of more than these, evenly spaced order statistics stand for all.
    """
    ordered = np.sort(values.astype(np.float64))
    if len(ordered) > most_values:
        ordered = ordered[np.linspace(0, len(ordered) - 1, most_values).round().astype(int)]
    places = np.linspace(0.0, 1.0, points)
    if np.ptp(ordered) < 1e-9:  # All alike: no width to take a bandwidth from.
        ordered = ordered[0] + np.linspace(-1e-3, 1e-3, max(len(ordered), 2))
    kernel = stats.gaussian_kde(ordered)
    return places, kernel(places) + kernel(-places) + kernel(2.0 - places)
