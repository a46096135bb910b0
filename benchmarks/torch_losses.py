"""PyTorch's side of the comparison."""

from collections.abc import Callable

import numpy as np
import torch

from benchmarks.measuring import Run


def torch_kl(student: np.ndarray, teacher: np.ndarray, targets: np.ndarray) -> Run:
    """Returns a run of value and gradient of PyTorch's own KL."""

    teacher_logits = torch.tensor(teacher)

    def loss(student_logits: torch.Tensor) -> torch.Tensor:
        log_q, log_p = (torch.log_softmax(logits, -1) for logits in (student_logits, teacher_logits))
        return torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean")

    return run_backward(loss, torch.tensor(student, requires_grad=True))


def published_atkd(student: np.ndarray, teacher: np.ndarray, targets: np.ndarray) -> Run:
    """Returns a run of ATKD as its paper computes it, written afresh from the description.

    The tokens of each group are selected by a boolean mask; each group has its own softmaxes: over all words, over
    (target, rest), and over the words without the target.
    """
    token_ids = torch.tensor(targets, dtype=torch.long)[:, None]

    def parts(student_logits: torch.Tensor, teacher_logits: torch.Tensor, token_ids: torch.Tensor):
        q, p = torch.softmax(student_logits, -1), torch.softmax(teacher_logits, -1)
        coins = [torch.cat([x.gather(-1, token_ids), 1 - x.gather(-1, token_ids)], -1).clamp_min(1e-12) for x in (q, p)]
        target_kd = (coins[1] * (coins[1].log() - coins[0].log())).sum(-1)
        others = torch.ones_like(p, dtype=torch.bool).scatter_(-1, token_ids, False)
        left = [x[others].view(x.shape[0], -1) for x in (student_logits, teacher_logits)]
        rest_q, rest_p = (torch.log_softmax(logits, -1) for logits in left)
        return target_kd, (rest_p.exp() * (rest_p - rest_q)).sum(-1)

    teacher_logits = torch.tensor(teacher)

    def loss(student_logits: torch.Tensor) -> torch.Tensor:
        uncertainty = 1 - torch.softmax(teacher_logits, -1).gather(-1, token_ids)[:, 0]
        hard = uncertainty >= uncertainty.median()
        hard_target, hard_rest = parts(student_logits[hard], teacher_logits[hard], token_ids[hard])
        _, easy_rest = parts(student_logits[~hard], teacher_logits[~hard], token_ids[~hard])
        return 0.2 * easy_rest.mean() + 0.8 * (hard_target + hard_rest).mean()

    return run_backward(loss, torch.tensor(student, requires_grad=True))


def run_backward(loss: Callable[..., torch.Tensor], *arrays: torch.Tensor) -> Run:
    """Returns a run of a loss and its gradient by the arrays; it gives the value and keeps no gradient."""

    def run() -> torch.Tensor:
        value = loss(*arrays)
        value.backward()
        for array in arrays:
            array.grad = None
        return value.detach()

    return run
