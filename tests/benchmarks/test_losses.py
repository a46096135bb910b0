"""The benchmark runs on small arrays, and what it compares computes the same."""

import sys
from pathlib import Path

import numpy as np
import pytest

from atkd_jax import losses

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from benchmarks.__main__ import markdown
from benchmarks.losses import measure_losses
from benchmarks.torch_losses import published_atkd, torch_kl


def random_case():
    rng = np.random.default_rng(0)
    student, teacher = 2 * rng.standard_normal((2, 9, 13), np.float32)
    return student, teacher, rng.integers(0, 13, 9).astype(np.int32)


def test_every_loss_is_measured():
    found = dict(measure_losses(tokens=4, vocab=12, width=3, repeats=2, devices=2))
    names = {"atkd", "forward_kl", "optax KL", "PyTorch kl_div", "ATKD as published, PyTorch", "linear_atkd"}
    assert names | {"linear_atkd, tokens over 2 devices", "linear_atkd, words over 2 devices"} <= found.keys()
    assert all(row.seconds > 0 and row.ratio > 0 for row in found.values())
    assert found["linear_atkd"].temporary_gib is not None
    assert found["ATKD as published, PyTorch"].reference == "atkd"
    table = markdown("twelve words", found)
    assert table.startswith("| twelve words | seconds | ratio | to | temporary GiB | process GiB |\n|---|")
    assert len(table.splitlines()) == 2 + len(found)


def test_torch_computes_what_we_compute():
    student, teacher, targets = random_case()
    arrays = {"student_logits": student, "teacher_logits": teacher}
    kl = losses.forward_kl(**arrays).mean()
    assert float(torch_kl(student, teacher, targets)()) == pytest.approx(float(kl), rel=1e-5)
    ours, _ = losses.atkd(**arrays, targets=targets, mask=np.ones(9, bool))
    assert float(published_atkd(student, teacher, targets)()) == pytest.approx(float(ours), rel=1e-5)
