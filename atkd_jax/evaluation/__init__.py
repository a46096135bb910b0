"""Held-out measurements, always with the teacher."""

from atkd_jax.evaluation.measuring import measure, placed_model
from atkd_jax.evaluation.own_tokens import measure_apart
from atkd_jax.evaluation.report import OWN_TOKENS, Decile, Report, Scores, render_deciles, render_table
from atkd_jax.evaluation.rouge import rouge_l
from atkd_jax.evaluation.samples import Sample, sample_answers

__all__ = [
    "OWN_TOKENS",
    "Decile",
    "Report",
    "Sample",
    "Scores",
    "measure",
    "measure_apart",
    "placed_model",
    "render_deciles",
    "render_table",
    "rouge_l",
    "sample_answers",
]
