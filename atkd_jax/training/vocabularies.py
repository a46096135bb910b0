"""How many columns of each model's head are words of its tokenizer, and what the run says of the rest."""

from __future__ import annotations

from typing import Any, NamedTuple

from atkd_jax.errors import InputError
from atkd_jax.models import DecoderConfig


class Vocabularies(NamedTuple):
    """Numbers of ids.

    Attributes:
        student: of the tokenizer that the student reads with.
        teacher: of the teacher's own; None where it is the same one.
    """

    student: int
    teacher: int | None


def vocabularies(
    student_tokenizer: Any, teacher_tokenizer: Any, *, student: DecoderConfig, teacher: DecoderConfig
) -> tuple[Vocabularies, str | None]:
    """Returns the numbers of ids, and a sentence about columns that are left out, None where there are none.

    Heads are often padded to a round width, and Qwen2.5's 7B has another one than its 1.5B with the same tokenizer: no
    loss reads the columns beyond the tokenizer's ids.

    Args:
        student_tokenizer: Whose ids the student reads.
        teacher_tokenizer: Likewise; the same object where both have one tokenizer.
        student: The student's shape.
        teacher: The teacher's shape.

    Raises:
        InputError: if a head is smaller than its tokenizer.
    """
    ids = {"student": len(student_tokenizer), "teacher": len(teacher_tokenizer)}
    padding = {"teacher": teacher.vocab_size - ids["teacher"], "student": student.vocab_size - ids["student"]}
    for who, columns in padding.items():
        if columns < 0:
            raise InputError(
                f"The {who}'s head must have a column for each of its tokenizer's {ids[who]:,} ids, but has "
                f"{ids[who] + columns:,}; choose a model that belongs to the tokenizer."
            )
    left_out = [f"{columns:,} of the {who}'s" for who, columns in padding.items() if columns]
    sentence = None
    if left_out:
        sentence = f"Columns of the head beyond the tokenizer's ids are padding and left out: {', '.join(left_out)}."
    is_shared = student_tokenizer is teacher_tokenizer
    return Vocabularies(ids["student"], None if is_shared else ids["teacher"]), sentence
