"""The oracle is `jax.grad` of each term by itself, from both models' whole logits and the library's own losses."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from atkd_jax import losses
from atkd_jax.config import ObjectiveConfig
from atkd_jax.models import Decoder, DecoderConfig, logical_axes
from atkd_jax.objectives import make_gate, make_objective, next_token_targets
from atkd_jax.objectives.weighting import mean_weights
from atkd_jax.sharding import make_mesh, parameter_shardings, shard_batch
from atkd_jax.training.batch_loss import make_batch_loss
from atkd_jax.training.gradient_shares import make_gradient_shares, with_gradient_shares

ROWS, LENGTH, VOCAB = 8, 8, 16


def decoder(seed, width):
    config = DecoderConfig(
        vocab_size=VOCAB, width=width, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=4, mlp_width=8
    )
    return nnx.split(Decoder(config, rngs=nnx.Rngs(params=seed)))


@pytest.fixture(scope="module")
def models():
    graph, params = decoder(0, width=12)
    # A teacher with larger weights is surer of itself, so that easy and hard tokens differ.
    return decoder(1, width=8), (graph, jax.tree.map(lambda leaf: 4.0 * leaf, params))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    segments = np.repeat(np.array([[1] * 4 + [2] * 3 + [0]]), ROWS, axis=0).astype(np.int32)
    return {
        "tokens": rng.integers(0, VOCAB, (ROWS, LENGTH)).astype(np.int32),
        "positions": np.repeat(np.array([[*range(4), *range(3), 0]]), ROWS, axis=0).astype(np.int32),
        "segment_ids": segments,
        "loss_mask": (rng.random((ROWS, LENGTH)) < 0.7) & (segments > 0),
    }


def shares(models, batch, objective, *, mesh=None, **settings):
    (student, params), (teacher, teacher_params) = models
    gate = make_gate(objective)
    batch_loss = make_batch_loss(
        student=student,
        teacher=teacher,
        objective=make_objective(objective),
        vocab_size=VOCAB,
        mesh=mesh,
        knows_targets=gate is not None,
        **settings,
    )
    found = jax.jit(make_gradient_shares(batch_loss, gate=gate))(
        params, jnp.zeros((), jnp.int32), teacher_params, batch
    )
    return {name: float(value) for name, value in found.items()}


def expected(models, batch, *, terms, hard_fraction=0.5):
    """The shares of parts whose losses are the sums of `terms(student_logits, teacher_logits, targets, mask, hard)`."""
    (student, params), (teacher, teacher_params) = models
    inputs = {name: batch[name] for name in ("tokens", "positions", "segment_ids")}
    targets, mask = next_token_targets(
        tokens=batch["tokens"], segment_ids=batch["segment_ids"], loss_mask=batch["loss_mask"]
    )
    teacher_logits = nnx.merge(teacher, teacher_params)(**inputs)
    known = losses.target_log_prob(logits=teacher_logits, targets=targets)
    hard = losses.hard_token_mask(target_log_probs=known, mask=mask, hard_fraction=hard_fraction)

    names = []

    def sums(params):
        logits = {"student_logits": nnx.merge(student, params)(**inputs), "teacher_logits": teacher_logits}
        per_token = terms(**logits, targets=targets, mask=mask, hard=hard)
        found = {
            f"{term}_{group}": jnp.sum(jnp.where(where, values, 0))
            for term, values in per_token.items()
            for group, where in (("easy", ~hard), ("hard", hard))
        }
        names[:] = found
        return jnp.stack(list(found.values()))

    jacobian = jax.jit(jax.jacrev(sums))(params)
    flat = np.concatenate(
        [np.asarray(leaf, np.float64).reshape(len(names), -1) for leaf in jax.tree.leaves(jacobian)], 1
    )
    single = dict(zip(names, flat, strict=True))
    parts = dict(single)
    for part in {name.rpartition("_")[0] for name in names} | {"easy", "hard"}:
        parts[part] = sum(
            own for name, own in single.items() if name.startswith(f"{part}_") or name.endswith(f"_{part}")
        )
    whole = sum(single.values())
    found = {}
    for name, own in parts.items():
        norm = np.linalg.norm(own)
        found[f"gradient_share/{name}"] = own @ whole / (whole @ whole)
        found[f"gradient_cosine/{name}"] = own @ whole / (norm * np.linalg.norm(whole)) if norm else np.nan
        found[f"gradient_norm/{name}"] = norm
    return found


def atkd_terms(student_logits, teacher_logits, targets, mask, hard):
    both = {"student_logits": student_logits, "teacher_logits": teacher_logits, "targets": targets}
    easy, difficult = 0.2 * mean_weights(mask & ~hard), 0.8 * mean_weights(mask & hard)
    return {
        "target_kd": difficult * losses.target_kd(**both),
        "diversity_kd": (easy + difficult) * losses.diversity_kd(**both),
    }


def mixed_terms(student_logits, teacher_logits, targets, mask, hard):
    both = {"student_logits": student_logits, "teacher_logits": teacher_logits, "targets": targets}
    mean = mean_weights(mask)
    uncertainty = losses.teacher_uncertainty(teacher_logits=teacher_logits, targets=targets)
    return {
        "target_kd": 0.7 * mean * losses.target_kd(**both),
        "diversity_kd": 0.7 * mean * uncertainty * losses.diversity_kd(**both),
        "cross_entropy": 0.3 * mean * losses.cross_entropy(student_logits=student_logits, targets=targets),
    }


def assert_alike(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, wanted[name], rtol=2e-5, atol=2e-6, err_msg=name)


@pytest.fixture(scope="module")
def of_atkd(models, batch):
    return shares(models, batch, ObjectiveConfig())


def test_atkds_parts_are_what_each_gives_by_itself(models, batch, of_atkd):
    wanted = expected(models, batch, terms=atkd_terms)
    assert_alike(of_atkd, wanted)
    # An easy token has no TKD: a gradient of nothing, which points nowhere.
    assert of_atkd["gradient_norm/target_kd_easy"] == 0
    assert np.isnan(of_atkd["gradient_cosine/target_kd_easy"])


def test_kl_is_told_as_its_parts_beside_cross_entropy(models, batch):
    config = ObjectiveConfig(name="forward_kl", cross_entropy_weight=0.3, hard_fraction=0.3)
    found = shares(models, batch, config)
    assert_alike(found, expected(models, batch, terms=mixed_terms, hard_fraction=0.3))
    for names in (("target_kd", "diversity_kd", "cross_entropy"), ("easy", "hard")):
        assert sum(found[f"gradient_share/{name}"] for name in names) == pytest.approx(1, abs=1e-5)


def test_several_devices_and_micro_batches_tell_the_same(models, batch, of_atkd):
    mesh = make_mesh(fsdp=2, tensor=2)
    placed = [
        (graph, jax.device_put(params, parameter_shardings(mesh, logical_axes(params), params)))
        for graph, params in models
    ]
    found = shares(placed, shard_batch(mesh, batch), ObjectiveConfig(), mesh=mesh, microbatches=2, chunk_tokens=3)
    assert_alike(found, of_atkd)


def test_a_divergence_that_has_no_such_parts_is_one_term(models, batch):
    (student, params), (teacher, teacher_params) = models
    config = ObjectiveConfig(name="reverse_kl", cross_entropy_weight=0.5)
    batch_loss = make_batch_loss(
        student=student, teacher=teacher, objective=make_objective(config), vocab_size=VOCAB, knows_targets=True
    )
    own = partial(make_gradient_shares(batch_loss, gate=None), params, jnp.zeros((), jnp.int32))
    names = jax.eval_shape(own, teacher_params, batch)
    told = {name.partition("/")[2] for name in names}
    assert told == {"reverse_kl", "cross_entropy"}
    assert make_gate(ObjectiveConfig(name="universal_logit")) is None


def test_it_is_measured_every_so_often_before_the_step_takes_the_state():
    def step(state, batch):
        return state + batch, {"loss": state}

    measured = with_gradient_shares(step, lambda state, batch: {"shares": (state, batch)}, every_steps=2, start=3)
    state, told = 0, []
    for batch in (10, 20, 30):
        state, values = measured(state, batch)
        told.append(values)
    assert told == [{"loss": 0, "shares": (0, 10)}, {"loss": 10}, {"loss": 30, "shares": (30, 30)}]
