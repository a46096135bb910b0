"""What a loss costs, forward and backward: ours, other JAX code's and, where they are installed, PyTorch's and others'.

Every loss is of the same arrays, and is measured in turn with a reference that the table names.
"""

import importlib.util
from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from atkd_jax import losses
from benchmarks.measuring import Measurement, Run, measure, runner, temporary_gib
from benchmarks.sharded_losses import measure_sharded

PLAIN, WITH_PRODUCTS = "plain JAX KL", "atkd with its products"
_DIVERGENCES = ("forward_kl", "reverse_kl", "generalized_jsd", "total_variation")


def measure_losses(
    *, tokens: int, vocab: int, width: int, repeats: int, devices: int
) -> Iterator[tuple[str, Measurement]]:
    """Yields each loss's name and cost: value and gradient by the student's logits, or by its hidden states and head.

    Args:
        tokens: Counted tokens.
        vocab: Columns of the logits.
        width: Of the hidden states of the linear forms.
        repeats: How many pairs are measured, after one that is not counted.
        devices: Over how many CPU devices the sharded form runs, in a process of its own; 1 leaves it out.
    """
    yield from _measure_full(tokens, vocab, repeats)
    yield from _measure_linear(tokens, vocab, width, repeats)
    if devices > 1:
        yield from measure_sharded(tokens=tokens, vocab=vocab, width=width, repeats=repeats, devices=devices)


def _measure_full(tokens: int, vocab: int, repeats: int) -> Iterator[tuple[str, Measurement]]:
    draw = np.random.default_rng(0)
    student, teacher = (4 * draw.standard_normal((tokens, vocab), np.float32) for _ in range(2))
    targets = draw.integers(0, vocab, tokens).astype(np.int32)
    arrays = (jnp.asarray(student), jnp.asarray(teacher), jnp.asarray(targets))
    programs = {name: jax.jit(jax.value_and_grad(term)).lower(*arrays).compile() for name, term in _full().items()}
    runs = {name: runner(program, arrays) for name, program in programs.items()}
    for name, program in programs.items():
        memory = temporary_gib(program)
        yield name, _measured(runs, name, PLAIN, repeats, memory)
    for name, (reference, run) in _peers_of_full(student, teacher, targets).items():
        yield name, _measured(runs | {name: run}, name, reference, repeats)


def _measured(
    runs: dict[str, Run], name: str, reference: str, repeats: int, memory: float | None = None
) -> Measurement:
    pair = {"reference": runs[reference], "reference_name": reference}
    return measure(runs[name], **pair, repeats=repeats, temporary_gib=memory)


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

    ours = {name: partial(divergence, getattr(losses, name)) for name in _DIVERGENCES}
    return {PLAIN: plain_kl, "optax KL": optax_kl, "atkd": atkd, **ours, "cross_entropy": cross_entropy}


def _peers_of_full(student: np.ndarray, teacher: np.ndarray, targets: np.ndarray) -> dict[str, tuple[str, Run]]:
    """Returns other programs' losses of the logits, with ours that computes the same."""
    found = {}
    if importlib.util.find_spec("torch"):
        from benchmarks.torch_losses import published_atkd, torch_kl

        found["PyTorch kl_div"] = ("forward_kl", torch_kl(student, teacher, targets))
        found["ATKD as published, PyTorch"] = ("atkd", published_atkd(student, teacher, targets))
    if importlib.util.find_spec("trl"):
        from benchmarks.peer_losses import trl_jsd

        found["TRL generalized_jsd_loss"] = ("generalized_jsd", trl_jsd(student, teacher))
    return found


def _measure_linear(tokens: int, vocab: int, width: int, repeats: int) -> Iterator[tuple[str, Measurement]]:
    hidden, heads, targets = linear_arrays(tokens, vocab, width)
    mask = np.ones(targets.shape, bool)

    def full(function, student_hidden, student_head, teacher_hidden, teacher_head):
        logits = {"student_logits": student_hidden @ student_head, "teacher_logits": teacher_hidden @ teacher_head}
        return function(**logits)

    def linear(function, student_hidden, student_head, teacher_hidden, teacher_head):
        student = {"student_hidden": student_hidden, "student_head": student_head}
        teacher = {"teacher_hidden": teacher_hidden, "teacher_head": teacher_head}
        return function(**student, **teacher, mask=mask)[0]

    jsd_of_logits = "generalized_jsd with its products"
    terms = {
        WITH_PRODUCTS: partial(full, lambda **case: losses.atkd(**case, targets=targets, mask=mask)[0]),
        "linear_atkd": partial(linear, partial(losses.linear_atkd, targets=targets)),
        jsd_of_logits: partial(full, lambda **case: jnp.mean(losses.generalized_jsd(**case))),
        "linear_divergence, generalized_jsd": partial(
            linear, partial(losses.linear_divergence, divergence="generalized_jsd")
        ),
    }
    arrays = tuple(jnp.asarray(array) for pair in zip(hidden, heads, strict=True) for array in pair)
    programs = {
        name: jax.jit(jax.value_and_grad(term, argnums=(0, 1))).lower(*arrays).compile() for name, term in terms.items()
    }
    runs = {name: runner(program, arrays) for name, program in programs.items()}
    for name, program in programs.items():
        reference = jsd_of_logits if "jsd" in name else WITH_PRODUCTS
        yield name, _measured(runs, name, reference, repeats, temporary_gib(program))
    if importlib.util.find_spec("liger_kernel"):
        from benchmarks.peer_losses import liger_fused_jsd

        name = "Liger's fused linear JSD"
        runs[name] = liger_fused_jsd(hidden, heads, targets)
        yield name, _measured(runs, name, "linear_divergence, generalized_jsd", repeats)


def linear_arrays(tokens: int, vocab: int, width: int) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Returns hidden states `[tokens, width]` and heads `[width, vocab]` of student and teacher, and targets."""
    draw = np.random.default_rng(1)
    hidden = [draw.standard_normal((tokens, width), np.float32) for _ in range(2)]
    heads = [np.float32(4 * width**-0.5) * draw.standard_normal((width, vocab), np.float32) for _ in range(2)]
    return hidden, heads, draw.integers(0, vocab, tokens).astype(np.int32)
