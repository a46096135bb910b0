"""The benchmark runs on small arrays, and what it compares computes the same."""

import sys
from pathlib import Path

import numpy as np
import pytest

from atkd_jax import losses

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from benchmarks.losses import measure_losses
from benchmarks.torch_losses import published_atkd, torch_kl


def random_case():
    rng = np.random.default_rng(0)
    student, teacher = 2 * rng.standard_normal((2, 9, 13), np.float32)
    return student, teacher, rng.integers(0, 13, 9).astype(np.int32)


def test_every_loss_is_measured():
    found = measure_losses(tokens=4, vocab=11, width=3, repeats=2)
    assert {"atkd", "forward_kl", "optax KL", "PyTorch kl_div", "ATKD as published, PyTorch"} <= found.keys()
    assert all(row.seconds > 0 and row.ratio > 0 for row in found.values())
    assert found["linear_atkd, width 3"].temporary_gib is not None


def test_torch_computes_what_we_compute():
    student, teacher, targets = random_case()
    arrays = {"student_logits": student, "teacher_logits": teacher}
    kl = losses.forward_kl(**arrays).mean()
    assert float(torch_kl(student, teacher, targets)()) == pytest.approx(float(kl), rel=1e-5)
    ours, _ = losses.atkd(**arrays, targets=targets, mask=np.ones(9, bool))
    assert float(published_atkd(student, teacher, targets)()) == pytest.approx(float(ours), rel=1e-5)
