"""Text from a model: a key-value cache, a compiled loop, and a sampler that is a pure function of logits and keys."""

from atkd_jax.generation.answers import answer, written_answers
from atkd_jax.generation.decoding import Ending
from atkd_jax.generation.generate import generate, make_knobs, row_keys
from atkd_jax.generation.rollouts import RolloutWriter, Text, prompts_of_rows, with_corpus, with_texts
from atkd_jax.generation.rows import Plan
from atkd_jax.generation.sampling import sample
from atkd_jax.generation.stop_strings import cut_at, stop_at

__all__ = [
    "Ending",
    "Plan",
    "RolloutWriter",
    "Text",
    "answer",
    "cut_at",
    "generate",
    "make_knobs",
    "prompts_of_rows",
    "row_keys",
    "sample",
    "stop_at",
    "with_corpus",
    "with_texts",
    "written_answers",
]
