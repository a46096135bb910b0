"""Prompts and responses from TFDS and JSONL, as tokens in packed batches.

`open_source` gives examples by number, `training_batches` and `evaluation_batches` make arrays of them, and
`render_prompt` gives the ids after which a model answers.
"""

from atkd_jax.data.answers import Answers, hashed_tokens, load_answers
from atkd_jax.data.answers_file import Answer, write_answers
from atkd_jax.data.array_batches import ArrayBatches
from atkd_jax.data.counts import Counts
from atkd_jax.data.evaluation_batches import EvaluationBatches, evaluation_batches
from atkd_jax.data.examples import Example, Examples, spaced_examples, spaced_numbers
from atkd_jax.data.images import LabelledImages, load_images
from atkd_jax.data.instructions import Instruction, open_instructions
from atkd_jax.data.jsonl import read_prompts
from atkd_jax.data.shared_text import SharedText, shared_text
from atkd_jax.data.sources import open_source
from atkd_jax.data.templates import Template, render_prompt
from atkd_jax.data.training_batches import TrainingBatches, merge_states, training_batches

__all__ = [
    "Answer",
    "Answers",
    "ArrayBatches",
    "Counts",
    "EvaluationBatches",
    "Example",
    "Examples",
    "Instruction",
    "LabelledImages",
    "SharedText",
    "Template",
    "TrainingBatches",
    "evaluation_batches",
    "hashed_tokens",
    "load_answers",
    "load_images",
    "merge_states",
    "open_instructions",
    "open_source",
    "read_prompts",
    "render_prompt",
    "shared_text",
    "spaced_examples",
    "spaced_numbers",
    "training_batches",
    "write_answers",
]
