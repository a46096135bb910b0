"""AdamW with warm-up, cosine decay and clipping, as optax has them."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import jax
import optax

from atkd_jax.config import OptimizerConfig


def learning_rate_schedule(config: OptimizerConfig, *, steps: int) -> optax.Schedule:
    """Returns the learning rate by optimizer step: linear from 0 to the peak, then a cosine to its final share.

    Args:
      config: The peak, the warm-up and the final share.
      steps: Optimizer steps of the whole run; micro-batches are not steps.
    """
    warmup_steps = min(config.warmup_steps, max(steps - 1, 0))
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup_steps else config.learning_rate,
        peak_value=config.learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=max(steps, warmup_steps + 1),
        end_value=config.learning_rate * config.final_fraction,
    )
    return _standard_promotion(schedule)


def make_optimizer(config: OptimizerConfig, *, steps: int) -> optax.GradientTransformation:
    """Returns the optimizer for a run of `steps` optimizer steps."""
    adamw = optax.adamw(
        learning_rate_schedule(config, steps=steps),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=decayed_parameters,
    )
    optimizer = adamw if config.clip_norm is None else optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)
    return optax.GradientTransformation(optimizer.init, _standard_promotion(optimizer.update))


def _standard_promotion(function: Callable[..., Any]) -> Callable[..., Any]:
    """optax meets integer step counts with floats, which JAX's strict promotion, where a user sets it, refuses."""

    @wraps(function)
    def promoting(*args: Any, **kwargs: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return function(*args, **kwargs)

    return promoting


def decayed_parameters(params: Any) -> Any:
    """Returns a tree of bools: true for matrices, false for norm scales and biases.

    Layers are stacked, so the number of dimensions does not tell a matrix from a vector; the names do.
    """

    def is_matrix(path: tuple[Any, ...], _: Any) -> bool:
        names = {str(getattr(key, "key", getattr(key, "name", key))) for key in path}
        return not any(name == "bias" or name == "scale" or name.endswith("norm") for name in names)

    return jax.tree_util.tree_map_with_path(is_matrix, params)
