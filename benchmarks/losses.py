"""What a loss costs, forward and backward: ours, JAX's own KL and, where torch is installed, PyTorch's.

Each is measured in turn with the reference, a KL written with `jax.nn.log_softmax`, and the ratio is the median over
these pairs: other work on the machine slows both of a pair.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from atkd_jax import losses

REFERENCE = "plain JAX KL"
Run = Callable[[], object]


@dataclass(frozen=True)
class Measurement:
    """A loss's cost.

    Attributes:
        seconds: The fastest of the repeats.
        ratio: To the reference, or for the linear form to `atkd` with its products; the median over the pairs.
        temporary_gib: What XLA's program needs beside its arguments and results; None for PyTorch.
    """

    seconds: float
    ratio: float
    temporary_gib: float | None


def measure_losses(*, tokens: int, vocab: int, width: int, repeats: int) -> dict[str, Measurement]:
    """Gives each loss's cost, by name: value and gradient by the student's logits, or by its hidden states and head.

    Args:
        tokens: Counted tokens.
        vocab: Columns of the logits.
        width: Of the hidden states of the linear form.
        repeats: How many pairs are measured, after one that is not counted.
    """
    draw = np.random.default_rng(0)
    student, teacher = (4 * draw.standard_normal((tokens, vocab), np.float32) for _ in range(2))
    targets = draw.integers(0, vocab, tokens).astype(np.int32)
    arrays = (jnp.asarray(student), jnp.asarray(teacher), jnp.asarray(targets))
    compiled = {name: jax.jit(jax.value_and_grad(term)).lower(*arrays).compile() for name, term in _full().items()}
    reference = _runner(compiled.pop(REFERENCE), arrays)
    found = {
        name: _measure(_runner(program, arrays), reference, repeats, _temporary_gib(program))
        for name, program in compiled.items()
    }
    if importlib.util.find_spec("torch"):
        from benchmarks.torch_losses import published_atkd, torch_kl

        for name, function in (("PyTorch kl_div", torch_kl), ("ATKD as published, PyTorch", published_atkd)):
            found[name] = _measure(function(student, teacher, targets), reference, repeats, None)
    del student, teacher, arrays, reference
    return found | _measure_linear(tokens, vocab, width, repeats)


def _full() -> dict[str, Callable[..., jax.Array]]:
    def plain_kl(student, teacher, targets):
        log_q, log_p = jax.nn.log_softmax(student), jax.nn.log_softmax(teacher)
        return jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1))

    def optax_kl(student, teacher, targets):
        log_q, log_p = jax.nn.log_softmax(student), jax.nn.log_softmax(teacher)
        return jnp.mean(optax.losses.kl_divergence_with_log_targets(log_q, log_p))

    def atkd(student, teacher, targets):
        mask = jnp.ones(targets.shape, bool)
        return losses.atkd(student_logits=student, teacher_logits=teacher, targets=targets, mask=mask)[0]

    def divergence(function, student, teacher, targets):
        return jnp.mean(function(student_logits=student, teacher_logits=teacher))

    def cross_entropy(student, teacher, targets):
        return jnp.mean(losses.cross_entropy(student_logits=student, targets=targets))

    names = ("forward_kl", "reverse_kl", "generalized_jsd", "total_variation")
    ours = {name: partial(divergence, getattr(losses, name)) for name in names}
    return {REFERENCE: plain_kl, "optax KL": optax_kl, "atkd": atkd, **ours, "cross_entropy": cross_entropy}


def _measure_linear(tokens: int, vocab: int, width: int, repeats: int) -> dict[str, Measurement]:
    draw = np.random.default_rng(1)
    hidden = [jnp.asarray(draw.standard_normal((tokens, width), np.float32)) for _ in range(2)]
    heads = [jnp.asarray(4 * width**-0.5 * draw.standard_normal((width, vocab), np.float32)) for _ in range(2)]
    targets = jnp.asarray(draw.integers(0, vocab, tokens).astype(np.int32))
    mask = jnp.ones(targets.shape, bool)

    def full(hidden, head, teacher_hidden, teacher_head):
        logits = {"student_logits": hidden @ head, "teacher_logits": teacher_hidden @ teacher_head}
        return losses.atkd(**logits, targets=targets, mask=mask)[0]

    def linear(hidden, head, teacher_hidden, teacher_head):
        student = {"student_hidden": hidden, "student_head": head}
        teacher = {"teacher_hidden": teacher_hidden, "teacher_head": teacher_head}
        return losses.linear_atkd(**student, **teacher, targets=targets, mask=mask)[0]

    arrays = (hidden[0], heads[0], hidden[1], heads[1])
    programs = [jax.jit(jax.value_and_grad(term, argnums=(0, 1))).lower(*arrays).compile() for term in (full, linear)]
    with_products, without_logits = (_runner(program, arrays) for program in programs)
    memory = [_temporary_gib(program) for program in programs]
    return {
        f"atkd with its products, width {width}": _measure(with_products, with_products, repeats, memory[0]),
        f"linear_atkd, width {width}": _measure(without_logits, with_products, repeats, memory[1]),
    }


def _runner(program: Callable[..., object], arrays: tuple[jax.Array, ...]) -> Run:
    return lambda: jax.block_until_ready(program(*arrays))


def _temporary_gib(program: jax.stages.Compiled) -> float:
    return program.memory_analysis().temp_size_in_bytes / 2**30


def _measure(run: Run, reference: Run, repeats: int, temporary_gib: float | None) -> Measurement:
    def seconds(run: Run) -> float:
        began = time.perf_counter()
        run()
        return time.perf_counter() - began

    seconds(reference), seconds(run)
    pairs = [(seconds(reference), seconds(run)) for _ in range(repeats)]
    ratio = statistics.median(mine / theirs for theirs, mine in pairs)
    return Measurement(min(mine for _, mine in pairs), ratio, temporary_gib)
