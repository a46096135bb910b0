"""Held-out measurements, always with the teacher."""

from atkd_jax.evaluation.measuring import measure
from atkd_jax.evaluation.report import Report, Scores, render_table
from atkd_jax.evaluation.rouge import rouge_l
from atkd_jax.evaluation.samples import Sample, answer, sample_answers

__all__ = ["Report", "Sample", "Scores", "answer", "measure", "render_table", "rouge_l", "sample_answers"]
