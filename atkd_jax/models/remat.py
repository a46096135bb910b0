"""What the backward pass keeps of a layer's forward pass, and what it computes anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import jax

Remat = Literal["none", "full", "dots"]
# The name of what a layer's heads have gathered, as far as the backward pass needs it.
GATHERED = "gathered"

_POLICIES = jax.checkpoint_policies
# Elementwise work and attention scores are never kept: to write and read them takes as long as to compute them again,
# and twice the memory.
_KEPT = {
    "none": _POLICIES.save_from_both_policies(
        _POLICIES.dots_with_no_batch_dims_saveable, _POLICIES.save_only_these_names(GATHERED)
    ),
    "dots": _POLICIES.dots_with_no_batch_dims_saveable,
    "full": _POLICIES.nothing_saveable,
}


def rematerialised(layer: Callable, remat: Remat) -> Callable:
    """Return the layer, a function to be scanned, with the same values and gradients and another use of memory.

    With "none" every product is kept, those with weights and attention's results; with "dots" attention is computed
    anew; with "full" the whole layer is, and only the residual stream between layers is kept.
    """
    # Within a scan the compiler cannot merge the second computation with the first anyway.
    return jax.checkpoint(layer, policy=_KEPT[remat], prevent_cse=False)


def check_remat(remat: str) -> None:
    """Raise ValueError where `remat` is none of the three."""
    if remat not in get_args(Remat):
        raise ValueError(f"Decoder: remat must be one of {', '.join(get_args(Remat))}, got {remat!r}; choose one.")
