import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from atkd_jax import losses
from atkd_jax.config import ObjectiveConfig, OptimizerConfig
from atkd_jax.models import Decoder, DecoderConfig, logical_axes
from atkd_jax.objectives import make_objective, next_token_targets
from atkd_jax.sharding import make_mesh, parameter_shardings, shard_batch
from atkd_jax.training.optimizer import make_optimizer
from atkd_jax.training.placement import place_state
from atkd_jax.training.state import initial_state
from atkd_jax.training.step import make_train_step

ROWS, LENGTH, VOCAB = 8, 12, 32


def decoder(seed, layers, width=16, **changes):
    config = DecoderConfig(
        vocab_size=VOCAB,
        width=width,
        num_layers=layers,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        mlp_width=24,
        **changes,
    )
    return nnx.split(Decoder(config, rngs=nnx.Rngs(params=seed)))


@pytest.fixture(scope="module")
def models():
    # A teacher with larger weights is surer of itself, so that easy and hard tokens differ.
    teacher_graph, teacher_params = decoder(0, layers=2, width=24)
    return decoder(1, layers=1), (teacher_graph, jax.tree.map(lambda leaf: 4.0 * leaf, teacher_params))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    segments = np.repeat(np.array([[1] * 5 + [2] * 4 + [0] * 3]), ROWS, axis=0).astype(np.int32)
    positions = np.repeat(np.array([[*range(5), *range(4), 0, 0, 0]]), ROWS, axis=0).astype(np.int32)
    return {
        "tokens": rng.integers(0, VOCAB, (ROWS, LENGTH)).astype(np.int32),
        "positions": positions,
        "segment_ids": segments,
        "loss_mask": (rng.random((ROWS, LENGTH)) < 0.7) & (segments > 0),
    }


def sgd():
    """Makes the update the gradient itself, so that equal states mean equal gradients."""
    return optax.sgd(1.0)


def run(models, batch, *, objective=None, microbatches=1, optimizer=None, steps=1, chunk_tokens=512):
    (student, params), (teacher, teacher_params) = models
    optimizer = optimizer or sgd()
    step = make_train_step(
        student=student,
        teacher=teacher,
        objective=make_objective(objective or ObjectiveConfig()),
        optimizer=optimizer,
        vocab_size=VOCAB,
        microbatches=microbatches,
        chunk_tokens=chunk_tokens,
    )
    state = initial_state(params, optimizer=optimizer, seed=0)
    metrics = {}
    step = jax.jit(step)
    for _ in range(steps):
        state, metrics = step(state, teacher_params, batch)
    return state, metrics


def assert_same(one, other, rtol=1e-5):
    (state, metrics), (other_state, other_metrics) = one, other
    for name in metrics:
        np.testing.assert_allclose(metrics[name], other_metrics[name], rtol=rtol, atol=1e-7, err_msg=name)
    norm = float(optax.tree.norm(state.params))
    for ours, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(other_state.params), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol * norm / 100)


@pytest.fixture(scope="module")
def whole(models, batch):
    """The step over the whole batch at once, made once for each objective."""
    return functools.cache(lambda objective: run(models, batch, objective=objective))


OBJECTIVES = [
    ObjectiveConfig(),
    ObjectiveConfig(direction="reverse", cross_entropy_weight=0.3),
    ObjectiveConfig(name="forward_kl", temperature=2.0),
    ObjectiveConfig(name="cross_entropy"),
]


@pytest.mark.parametrize("softcaps", [(None, None), (None, 2.0), (1.5, None)])
def test_the_loss_is_the_librarys_atkd_on_the_two_models_logits(models, batch, softcaps):
    (_, params), (_, teacher_params) = models
    student, teacher = (
        decoder(0, layers=layers, width=width, logit_softcap=cap)[0]
        for layers, width, cap in zip((1, 2), (16, 24), softcaps, strict=True)
    )
    inputs = {name: batch[name] for name in ("tokens", "positions", "segment_ids")}
    targets, mask = next_token_targets(
        tokens=batch["tokens"], segment_ids=batch["segment_ids"], loss_mask=batch["loss_mask"]
    )
    expected, diagnostics = losses.atkd(
        student_logits=nnx.merge(student, params)(**inputs),
        teacher_logits=nnx.merge(teacher, teacher_params)(**inputs),
        targets=targets,
        mask=mask,
    )
    _, metrics = run(((student, params), (teacher, teacher_params)), batch)
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
    assert int(metrics["counted_tokens"]) == int(mask.sum())
    assert int(metrics["tokens"]) == ROWS * 9
    assert diagnostics


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: f"{objective.name}-{objective.direction}")
def test_micro_batches_change_nothing(models, batch, whole, objective):
    assert_same(whole(objective), run(models, batch, objective=objective, microbatches=4))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: f"{objective.name}-{objective.direction}")
def test_chunks_change_nothing(models, batch, whole, objective):
    assert_same(whole(objective), run(models, batch, objective=objective, chunk_tokens=7))
    assert_same(whole(objective), run(models, batch, objective=objective, chunk_tokens=1000, microbatches=4))


def test_columns_beyond_the_vocabulary_change_nothing(models, batch):
    (student, params), (teacher, teacher_params) = models
    narrow = dict(batch, tokens=batch["tokens"] % 20)

    def step_with(student_params, teacher_params, vocab_size):
        optimizer = sgd()
        step = make_train_step(
            student=student,
            teacher=teacher,
            objective=make_objective(ObjectiveConfig()),
            optimizer=optimizer,
            vocab_size=vocab_size,
        )
        return jax.jit(step)(initial_state(student_params, optimizer=optimizer, seed=0), teacher_params, narrow)

    def widened(params):
        return jax.tree.map(lambda leaf: leaf.at[..., 20:].set(9.0) if leaf.shape[-1] == VOCAB else leaf, params)

    _, metrics = step_with(params, teacher_params, 20)
    _, widened_metrics = step_with(widened(params), widened(teacher_params), 20)
    np.testing.assert_allclose(metrics["loss"], widened_metrics["loss"], rtol=1e-6)


def test_padding_changes_nothing(models, batch, whole):
    longer = {name: np.pad(array, ((0, 0), (0, 7))) for name, array in batch.items()}
    assert_same(whole(ObjectiveConfig()), run(models, longer))


def test_what_stands_in_uncounted_places_changes_nothing(models, batch, whole):
    changed = batch | {"tokens": np.where(batch["segment_ids"] > 0, batch["tokens"], VOCAB - 1)}
    assert_same(whole(ObjectiveConfig()), run(models, changed))


def adam():
    return make_optimizer(OptimizerConfig(warmup_steps=0, learning_rate=1e-2, eps=1.0), steps=10)


@pytest.fixture(scope="module")
def of_one_device(models, batch):
    return run(models, batch, optimizer=adam(), steps=2)


@pytest.mark.parametrize(("fsdp", "tensor"), [(1, 1), (2, 1), (4, 2), (2, 2), (1, 8)])
def test_every_mesh_gives_one_devices_step(models, batch, of_one_device, fsdp, tensor):
    (student, params), (teacher, teacher_params) = models
    mesh = make_mesh(fsdp=fsdp, tensor=tensor)
    optimizer = adam()
    step = make_train_step(
        student=student,
        teacher=teacher,
        objective=make_objective(ObjectiveConfig()),
        optimizer=optimizer,
        vocab_size=VOCAB,
        chunk_tokens=3,
        mesh=mesh,
    )
    placed_teacher = jax.device_put(
        teacher_params, parameter_shardings(mesh, logical_axes(teacher_params), teacher_params)
    )
    state = place_state(params, mesh=mesh, optimizer=optimizer, seed=0)
    metrics = {}
    step = jax.jit(step)
    for _ in range(2):
        state, metrics = step(state, placed_teacher, shard_batch(mesh, batch))
    assert_same(of_one_device, (state, metrics))


def test_a_step_that_is_not_finite_is_skipped_and_counted(models, batch):
    (student, params), (teacher, teacher_params) = models
    optimizer = make_optimizer(OptimizerConfig(warmup_steps=0), steps=10)
    step = jax.jit(
        make_train_step(
            student=student,
            teacher=teacher,
            objective=make_objective(ObjectiveConfig(name="forward_kl")),
            optimizer=optimizer,
            vocab_size=VOCAB,
        )
    )
    start = initial_state(params, optimizer=optimizer, seed=0)
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), teacher_params)
    state, metrics = step(start, broken, batch)
    assert not np.isfinite(metrics["loss"])
    assert (int(state.step), int(state.skipped_steps), int(state.skipped_in_a_row)) == (1, 1, 1)
    for before, after in zip(
        jax.tree.leaves((start.params, start.optimizer_state)),
        jax.tree.leaves((state.params, state.optimizer_state)),
        strict=True,
    ):
        np.testing.assert_array_equal(before, after)
    state, _ = step(step(state, broken, batch)[0], teacher_params, batch)
    assert (int(state.step), int(state.skipped_steps), int(state.skipped_in_a_row)) == (3, 2, 0)
    assert not np.array_equal(jax.tree.leaves(start.params)[0], jax.tree.leaves(state.params)[0])


def test_the_student_learns_the_teacher(models, batch):
    optimizer = make_optimizer(OptimizerConfig(warmup_steps=0, learning_rate=1e-2), steps=60)
    _, first = run(models, batch, optimizer=optimizer, steps=1)
    _, last = run(models, batch, optimizer=optimizer, steps=60)
    assert float(last["loss"]) < 0.5 * float(first["loss"])
