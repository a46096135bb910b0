"""Models that read the same text in tokens of their own: each measured by itself, and compared per byte."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from jax.sharding import Mesh

from atkd_jax.evaluation.measuring import Batch, measure
from atkd_jax.evaluation.report import TEACHER, Report
from atkd_jax.models import Decoder


def measure_apart(
    models: Mapping[str, Decoder],
    batches: Mapping[str, Sequence[Batch]],
    *,
    vocab_sizes: Mapping[str, int],
    response_bytes: int,
    mesh: Mesh | None = None,
    on_batch: Callable[[int], None] = lambda done: None,
) -> Report:
    """Measures every model on its own tokens of the same responses.

    Perplexity, accuracy and calibration are per token of the model; bits per byte, -log2 p(responses) by their bytes of
    UTF-8, is of the text and compares. A response's closing token is counted in every model: its bits are in the sum,
    and it has no bytes.

    Args:
        models: By name, the teacher first and students after it.
        batches: Of each model, as `measure` takes them; all of their tokens are of the same text.
        vocab_sizes: Of each model, the number of its tokenizer's ids.
        response_bytes: Of that text.
        mesh: As in `measure`.
        on_batch: Is called with the number of batches done, over all models, after each.

    Returns:
        The report, without what needs one vocabulary.

    Raises:
        InputError: if no token counts.

    Reference:
        Gao et al., 2020, arXiv 2101.00027, section 3.1.
    """
    scores = {}
    before = 0
    for name, model in models.items():
        alone = measure(
            model,
            {},
            batches[name],
            vocab_size=vocab_sizes[name],
            mesh=mesh,
            on_batch=lambda done, before=before: on_batch(before + done),
        )
        own = alone.scores[TEACHER]
        bits = own.cross_entropy * alone.counted_tokens / math.log(2)
        scores[name] = dataclasses.replace(
            own,
            forward_kl=None,
            reverse_kl=None,
            agreement=None,
            tokens=alone.counted_tokens,
            bits_per_byte=bits / response_bytes,
        )
        before += len(batches[name])
    counted = [own.tokens or 0 for own in scores.values()]
    return Report(counted[-1], scores, text_bytes=response_bytes)
