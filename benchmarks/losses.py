"""What a loss costs: forward and backward from logits, ours and, where torch is installed, PyTorch's own KL."""

import importlib.util
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from atkd_jax import losses


def measure_losses(*, tokens: int, vocab: int, repeats: int) -> dict[str, float]:
    """Gives the median seconds of value and gradient by the student's logits, by the loss's name.

    Args:
        tokens: Counted tokens.
        vocab: Columns of the logits.
        repeats: How often each is measured, after one time that is not counted.
    """
    draw = np.random.default_rng(0)
    student, teacher = (4 * draw.standard_normal((tokens, vocab), np.float32) for _ in range(2))
    targets = draw.integers(0, vocab, tokens).astype(np.int32)
    found = {name: _seconds(run, repeats) for name, run in _ours(student, teacher, targets).items()}
    if importlib.util.find_spec("torch"):
        found["torch kl_div"] = _seconds(_torch_kl(student, teacher), repeats)
    return found


def _ours(student: np.ndarray, teacher: np.ndarray, targets: np.ndarray) -> dict[str, Callable[[], object]]:
    mask = jnp.ones(targets.shape, bool)
    arrays = (jnp.asarray(student), jnp.asarray(teacher), jnp.asarray(targets))
    terms = {
        "forward_kl": lambda s, t, y: losses.forward_kl(student_logits=s, teacher_logits=t).mean(),
        "reverse_kl": lambda s, t, y: losses.reverse_kl(student_logits=s, teacher_logits=t).mean(),
        "cross_entropy": lambda s, t, y: losses.cross_entropy(student_logits=s, targets=y).mean(),
        "atkd": lambda s, t, y: losses.atkd(student_logits=s, teacher_logits=t, targets=y, mask=mask)[0],
    }

    def runner(term: Callable[..., jax.Array]) -> Callable[[], object]:
        compiled = jax.jit(jax.value_and_grad(term))
        return lambda: jax.block_until_ready(compiled(*arrays))

    return {name: runner(term) for name, term in terms.items()}


def _torch_kl(student: np.ndarray, teacher: np.ndarray) -> Callable[[], object]:
    import torch

    student_logits = torch.tensor(student, requires_grad=True)
    teacher_logits = torch.tensor(teacher)

    def run() -> None:
        student_logits.grad = None
        log_q, log_p = (torch.log_softmax(logits, -1) for logits in (student_logits, teacher_logits))
        torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="batchmean").backward()

    return run


def _seconds(run: Callable[[], object], repeats: int) -> float:
    run()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)
