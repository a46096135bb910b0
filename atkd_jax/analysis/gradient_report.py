"""The page's section on what each term of the loss, and easy and hard tokens, give of the student's gradient."""

from __future__ import annotations

from collections.abc import Sequence

from atkd_jax.analysis.curves import draw_curves
from atkd_jax.analysis.page import Block, Note, Picture, Pictures, Table
from atkd_jax.analysis.run_files import RunFiles, points_of
from atkd_jax.training.metrics import COSINE_PREFIX, NORM_PREFIX, SHARE_PREFIX, mean_shares

_KINDS = {
    SHARE_PREFIX: "share of the gradient",
    COSINE_PREFIX: "cosine to the whole gradient",
    NORM_PREFIX: "norm of the part",
}


def is_of_gradient_share(metric: str) -> bool:
    """Returns whether a metric is drawn here and not among the curves of training."""
    return metric.startswith(tuple(_KINDS))


def gradient_blocks(runs: Sequence[RunFiles]) -> list[Block]:
    """Returns the section's blocks; none where no run measured shares."""
    told = {run.name: run for run in runs if any(SHARE_PREFIX in name for line in run.metrics for name in line)}
    if not told:
        return []
    pictures = []
    for name, run in told.items():
        names = list(dict.fromkeys(name for line in run.metrics for name in line))
        for prefix, title in _KINDS.items():
            parts = {each.removeprefix(prefix): points_of(run, each) for each in names if each.startswith(prefix)}
            # A term of one group is a part of both; so many lines are told apart in two pictures.
            finer = {part: points for part, points in parts.items() if part.endswith(("_easy", "_hard"))}
            rest = {part: points for part, points in parts.items() if part not in finer}
            for lines, what in ((rest, title), (finer, f"{title}, term by group")):
                shown = what if len(runs) == 1 else f"{name}: {what}"
                if lines:
                    pictures.append(Picture(draw_curves(lines, title=shown, x="step"), f"{shown} by step"))
    means = {name: mean_shares(run.metrics) for name, run in told.items()}
    parts = list(dict.fromkeys(part for own in means.values() for part in own))
    rows = [[part.replace("_", " "), *(_percent(own.get(part)) for own in means.values())] for part in parts]
    note = Note(
        "The share of a part is the product of its gradient with the whole one over the latter's square: the shares of "
        "all terms add up to 100%, and so do those of easy and hard tokens."
    )
    return [Pictures(pictures), Table(["mean share", *told], rows), note]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"
