"""The same example in the teacher's own tokens, and which of them goes with which of the student's."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class TeacherTokens(NamedTuple):
    """An example as the teacher reads it.

    Attributes:
        tokens: int32 [teacher_length], prompt, response and closing token, cut like the student's.
        places: int32 [length]: for each of the student's tokens the place of the teacher's token that goes with it as a
            target; 0 where there is none, since no state of the example comes before its first token.
    """

    tokens: np.ndarray
    places: np.ndarray


def pair_tokens(
    teacher_prompt: list[int],
    teacher_response: list[int],
    *,
    prompt_tokens: int,
    loss_mask: np.ndarray,
    sequence_length: int,
) -> TeacherTokens:
    """Pairs the two responses position by position: the first token with the first, up to the end of the shorter.

    Args:
        teacher_prompt: ids in the teacher's vocabulary.
        teacher_response: likewise, with the closing token.
        prompt_tokens: of the student's tokens, those of the prompt.
        loss_mask: bool [length], where the student's token is a target.
        sequence_length: where the teacher's tokens are cut off.

    Reference:
        Boizard et al., arXiv 2402.12030, section 3.
    """
    tokens = np.asarray([*teacher_prompt, *teacher_response][:sequence_length], np.int32)
    places = np.arange(len(loss_mask)) - prompt_tokens + len(teacher_prompt)
    has_partner = loss_mask & (places > 0) & (places < len(tokens))
    return TeacherTokens(tokens, np.where(has_partner, places, 0).astype(np.int32))
