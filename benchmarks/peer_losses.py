"""Losses of TRL and of Liger, as their own programs compute them; both need PyTorch."""

import numpy as np
import torch
from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss
from trl.experimental.gkd import GKDTrainer

from benchmarks.measuring import Run
from benchmarks.torch_losses import run_backward


def trl_jsd(student: np.ndarray, teacher: np.ndarray) -> Run:
    """Returns a run of value and gradient of the generalised JSD of TRL's GKD trainer, its mean over the tokens."""
    teacher_logits = torch.tensor(teacher)

    def loss(student_logits: torch.Tensor) -> torch.Tensor:
        return GKDTrainer.generalized_jsd_loss(student_logits[None], teacher_logits[None], reduction="batchmean")

    return run_backward(loss, torch.tensor(student, requires_grad=True))


def liger_fused_jsd(hidden: list[np.ndarray], heads: list[np.ndarray], targets: np.ndarray) -> Run:
    """Returns a run of value and gradient of Liger's fused linear JSD without its cross-entropy, compiled by PyTorch.

    Args:
        hidden: `[tokens, width]` of student and teacher.
        heads: `[width, vocab]` of both.
        targets: `[tokens]`.
    """
    inputs, weights = ([torch.tensor(array) for array in pair] for pair in (hidden, [head.T.copy() for head in heads]))
    labels = torch.tensor(targets, dtype=torch.long)
    fused = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0)

    def loss(student_hidden: torch.Tensor, student_head: torch.Tensor) -> torch.Tensor:
        return fused(student_hidden, student_head, inputs[1], weights[1], labels)

    return run_backward(loss, inputs[0].requires_grad_(), weights[0].requires_grad_())
