import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from atkd_jax.evaluation.own_tokens import measure_apart
from atkd_jax.models import Decoder, DecoderConfig
from atkd_jax.sharding import make_mesh

SHAPE = {"width": 8, "num_layers": 1, "num_heads": 1, "num_kv_heads": 1, "head_dim": 8, "mlp_width": 8}


def indifferent(vocab_size):
    """A model to which every token is as likely as any other."""
    graphdef, params = nnx.split(Decoder(DecoderConfig(vocab_size=vocab_size, **SHAPE), rngs=nnx.Rngs(0)))
    return nnx.merge(graphdef, jax.tree.map(jnp.zeros_like, params))


def batches_of(*lengths, counted):
    """A batch of one row for each length, in which so many of the last tokens count."""
    found = []
    for length in lengths:
        row = np.arange(12)[None] < length
        zeros = np.zeros((1, 12), np.int32)
        mask = row & (np.arange(12)[None] >= length - counted)
        positions = np.where(row, np.arange(12)[None], 0).astype(np.int32)
        found.append({"tokens": zeros, "positions": positions, "segment_ids": row.astype(np.int32), "loss_mask": mask})
    return found


@pytest.mark.parametrize("mesh", [None, make_mesh()])
def test_bits_are_those_of_the_models_own_tokens_per_byte_of_the_text(mesh):
    models = {"teacher": indifferent(40), "student before": indifferent(8)}
    batches = {"teacher": batches_of(9, counted=2), "student before": batches_of(5, 7, 12, counted=3)}
    done = []
    report = measure_apart(
        models,
        batches,
        vocab_sizes={"teacher": 32, "student before": 8},  # 8 of the teacher's columns are padding
        response_bytes=10,
        mesh=mesh,
        on_batch=done.append,
    )
    assert done == [1, 2, 3, 4]
    teacher, student = report.scores["teacher"], report.scores["student before"]
    assert (teacher.tokens, student.tokens, report.counted_tokens, report.text_bytes) == (2, 9, 9, 10)
    assert teacher.bits_per_byte == pytest.approx(2 * 5 / 10)
    assert student.bits_per_byte == pytest.approx(9 * 3 / 10)
    assert student.perplexity == pytest.approx(math.exp(student.cross_entropy)) == pytest.approx(8)
    for scores in (teacher, student):
        assert (scores.forward_kl, scores.reverse_kl, scores.agreement) == (None, None, None)
    assert report.deciles == ()
