"""Whether a checkpoint belongs to the run that a config describes."""

import json
from collections.abc import Mapping
from typing import Any

from atkd_jax.config import Config
from atkd_jax.errors import InputError

# What may change between two parts of one run without changing what it computes.
_MAY_CHANGE = {
    "run_dir",
    "cache_dir",
    "checkpoint",
    "evaluation",
    "export",
    "landscape",
    "mesh",
    "profile",
    "distributed",
    "teacher.cache",  # What is in it decides, and the data position names that.
    "teacher.endpoint",
    "teacher.endpoint_options",
    "training.steps",
    "training.microbatches",
    "training.remat",
    "training.attention",
    "training.chunk_tokens",
    "training.log_every_steps",
    "training.max_nonfinite_steps",
    "training.gradient_share_every_steps",
}


def require_same_run(saved: Mapping[str, Any], config: Config) -> None:
    """Refuses to go on from a checkpoint with a config that computes something else.

    Args:
        saved: The config in the checkpoint, as JSON has it.
        config: The config now.

    Raises:
        InputError: naming every field that differs and must not, with both values.
    """
    # The share of written text goes by the loss on it.
    held = {"evaluation.split"} if config.rollout.fraction_step else set()
    differences = [
        f"{name}={json.dumps(old)} then and {json.dumps(new)} now"
        for name, old, new in _differences(saved, config.model_dump(mode="json"))
        if name in held or not any(name == allowed or name.startswith(f"{allowed}.") for allowed in _MAY_CHANGE)
    ]
    if differences:
        raise InputError(
            f"{config.run_dir} was started with another config ({'; '.join(differences)}); "
            "give the old values, or another run_dir"
        )


def _differences(before: Any, now: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    if not (isinstance(before, Mapping) and isinstance(now, Mapping)):
        return [] if before == now else [(prefix, before, now)]
    found = []
    for name in sorted({*before, *now}):
        dotted = f"{prefix}.{name}" if prefix else name
        found += _differences(before.get(name), now.get(name), dotted)
    return found
