from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atkd_jax import losses
from atkd_jax.config import ObjectiveConfig
from atkd_jax.objectives import Heads, Tokens, head_loss, make_objective
from atkd_jax.objectives.weighting import Weighting

ROWS, LENGTH, VOCAB = 6, 7, 11


@pytest.fixture(scope="module")
def batch():
    keys = jax.random.split(jax.random.key(3), 4)
    return {
        "student_logits": 2.0 * jax.random.normal(keys[0], (ROWS, LENGTH, VOCAB)),
        "teacher_logits": 3.0 * jax.random.normal(keys[1], (ROWS, LENGTH, VOCAB)),
        "targets": jax.random.randint(keys[2], (ROWS, LENGTH), 0, VOCAB),
        "mask": jax.random.bernoulli(keys[3], 0.6, (ROWS, LENGTH)),
    }


def through_heads(objective, weighting, batch):
    """The loss and the metrics for these logits: as hidden states, before heads that pass them on."""
    heads = Heads(jnp.eye(VOCAB), jnp.eye(VOCAB), VOCAB)
    tokens = Tokens(batch["teacher_logits"], batch["targets"], batch["mask"], weighting._replace(scalars={}))
    return head_loss(objective, student_hidden=batch["student_logits"], heads=heads, tokens=tokens, chunk_tokens=16)


def value_and_gradient(config, batch, parts):
    """The objective over `parts` micro-batches, added up."""
    objective = make_objective(config)
    cut = {name: array.reshape(parts, -1, *array.shape[1:]) for name, array in batch.items()}
    models = ("teacher_logits", "student_logits") if objective.needs_student_probability else ("teacher_logits",)
    teacher, *own = (losses.target_log_prob(logits=cut[name], targets=cut["targets"]) for name in models)
    weighting = objective.weighting(teacher, cut["mask"], *own)._replace(scalars={})

    student = cut.pop("student_logits")

    @jax.jit  # Once for all parts, which have one shape.
    @jax.value_and_grad
    def loss(student_logits, weighting, arrays):
        return through_heads(objective, Weighting(*weighting), arrays | {"student_logits": student_logits})[0]

    each = [
        loss(student[part], *jax.tree.map(lambda array, part=part: array[part], (tuple(weighting), cut)))
        for part in range(parts)
    ]
    value, gradient = sum(float(value) for value, _ in each), np.stack([gradient for _, gradient in each])
    return value, gradient.reshape(ROWS, LENGTH, VOCAB)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"direction": "reverse"},
        {"normalizer": "total_tokens"},
        {"hard_fraction": 0.3},
        {"temperature": 2.0},
        {"divergence": "generalized_jsd", "beta": 0.3},
        {"divergence": "total_variation"},
        {"divergence": "skewed_reverse_kl", "temperature": 0.7},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())) or "default",
)
def test_atkd_is_the_loss_of_that_name(batch, settings):
    @jax.jit
    @jax.value_and_grad
    def loss(student):
        return losses.atkd(**(batch | {"student_logits": student}), easy_weight=0.3, **settings)[0]

    expected, gradient = loss(batch["student_logits"])
    value, ours = value_and_gradient(ObjectiveConfig(name="atkd", easy_weight=0.3, **settings), batch, parts=1)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(ours, gradient, rtol=1e-5, atol=1e-7)


NAMES = get_args(ObjectiveConfig.model_fields["name"].annotation)


# These have a loss of their own on the data's text.
OWN_LOSS = ("minillm_paper", "minillm_lmops", "universal_logit")
MIXTURES = [(name, weight) for name in NAMES for weight in (0.0, 0.4) if not (weight and name in OWN_LOSS)]


@pytest.mark.parametrize(("name", "cross_entropy_weight"), MIXTURES)
def test_value_and_gradient_do_not_depend_on_the_number_of_micro_batches(batch, name, cross_entropy_weight):
    config = ObjectiveConfig(name=name, cross_entropy_weight=cross_entropy_weight)
    whole_value, whole_gradient = value_and_gradient(config, batch, parts=1)
    for parts in (2, 3):
        value, gradient = value_and_gradient(config, batch, parts)
        np.testing.assert_allclose(value, whole_value, rtol=1e-6)
        np.testing.assert_allclose(gradient, whole_gradient, rtol=1e-5, atol=1e-8)


DIVERGENCES = [name for name in NAMES if name in losses.__all__ and name.endswith(("kl", "jsd", "variation"))]


@pytest.mark.parametrize("name", [name for name in DIVERGENCES if name != "uncertainty_weighted_kl"])
def test_a_divergence_is_averaged_over_the_counted_tokens_alone(batch, name):
    """With cross-entropy mixed in, which is that at temperature 1."""
    share = {"generalized_jsd": {"beta": 0.3}}.get(name, {"alpha": 0.2} if name.startswith("skewed") else {})
    mask = np.asarray(batch["mask"])
    per_token = getattr(losses, name)(
        student_logits=batch["student_logits"], teacher_logits=batch["teacher_logits"], temperature=2.0, **share
    )
    hard_labels = losses.cross_entropy(student_logits=batch["student_logits"], targets=batch["targets"])
    expected = [np.asarray(values, np.float64)[mask].mean() for values in (per_token, hard_labels)]
    config = ObjectiveConfig(name=name, temperature=2.0, cross_entropy_weight=0.25, **share)
    value, _ = value_and_gradient(config, batch, parts=1)
    np.testing.assert_allclose(value, 0.75 * expected[0] + 0.25 * expected[1], rtol=1e-6)


def test_universal_logit_is_cross_entropy_and_the_distance_where_tokens_pair(batch):
    paired = batch["mask"] & (jnp.arange(LENGTH)[None] % 3 > 0)
    objective = make_objective(ObjectiveConfig(name="universal_logit", universal_logit_weight=0.7, temperature=2.0))
    weighting = objective.weighting(jnp.zeros((ROWS, LENGTH)), batch["mask"], paired)
    value, metrics = through_heads(objective, weighting, batch)
    logits = {name: batch[name] for name in ("student_logits", "teacher_logits")}
    distance = np.asarray(losses.universal_logit(**logits, temperature=2.0), np.float64)[np.asarray(paired)].mean()
    hard = losses.cross_entropy(student_logits=batch["student_logits"], targets=batch["targets"])
    hard = np.asarray(hard, np.float64)[np.asarray(batch["mask"])].mean()
    np.testing.assert_allclose(value, hard + 0.7 * distance, rtol=1e-6)
    np.testing.assert_allclose([metrics["universal_logit"], metrics["cross_entropy"]], [distance, hard], rtol=1e-6)
    np.testing.assert_allclose(weighting.scalars["paired_share"], paired.sum() / batch["mask"].sum(), rtol=1e-6)


def test_decoupled_kd_is_the_loss_of_that_name(batch):
    weights = {"target_weight": 0.5, "diversity_weight": 2.0}
    expected, _ = losses.decoupled_kd(**batch, **weights, direction="reverse")
    value, _ = value_and_gradient(ObjectiveConfig(name="decoupled_kd", direction="reverse", **weights), batch, parts=1)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_a_power_of_uncertainty_weighs_diversity(batch, gamma):
    logits = {name: batch[name] for name in ("student_logits", "teacher_logits", "targets")}
    per_token = losses.uncertainty_weighted_kl(**logits, gamma=gamma)
    expected = np.asarray(per_token, np.float64)[np.asarray(batch["mask"])].mean()
    value, _ = value_and_gradient(ObjectiveConfig(name="uncertainty_weighted_kl", gamma=gamma), batch, parts=1)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_gate_scope_microbatch_is_the_mean_of_the_parts_own_losses(batch):
    parts = 3
    separate = [
        losses.atkd(**{name: array.reshape(parts, -1, *array.shape[1:])[part] for name, array in batch.items()})[0]
        for part in range(parts)
    ]
    value, _ = value_and_gradient(ObjectiveConfig(gate_scope="microbatch"), batch, parts)
    np.testing.assert_allclose(value, np.mean(separate), rtol=1e-6)


def test_the_gates_diagnostics_are_those_of_the_loss(batch):
    _, expected = losses.atkd(**batch)
    objective = make_objective(ObjectiveConfig())
    log_probs = losses.target_log_prob(logits=batch["teacher_logits"], targets=batch["targets"])
    weighting = objective.weighting(log_probs, batch["mask"])
    _, metrics = through_heads(objective, weighting, batch)
    for name, value in (metrics | weighting.scalars).items():
        if name in expected:
            np.testing.assert_allclose(value, expected[name], rtol=1e-5)
    assert {"easy_share", "uncertainty_threshold"} <= set(expected)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_tokens_can_be_the_easy_or_the_hard_ones_alone(batch, direction):
    """Their means, weighted by their shares, add up to the mean over all; and the groups are those of the gate."""
    hard = losses.hard_token_mask(
        uncertainty=losses.teacher_uncertainty(teacher_logits=batch["teacher_logits"], targets=batch["targets"]),
        mask=batch["mask"],
        hard_fraction=0.3,
    )
    logits = {name: batch[name] for name in ("student_logits", "teacher_logits")}
    per_token = np.asarray(getattr(losses, f"{direction}_kl")(**logits), np.float64)
    for tokens, group in (("hard", hard), ("easy", batch["mask"] & ~hard)):
        config = ObjectiveConfig(name=f"{direction}_kl", tokens=tokens, hard_fraction=0.3)
        value, gradient = value_and_gradient(config, batch, parts=1)
        np.testing.assert_allclose(value, per_token[np.asarray(group)].mean(), rtol=1e-6)
        assert (np.abs(np.asarray(gradient)).sum(-1) > 0).ravel().tolist() == np.asarray(group).ravel().tolist()
        parted = value_and_gradient(config, batch, parts=3)
        np.testing.assert_allclose(parted[0], value, rtol=1e-6)


def test_tokens_are_left_out_of_plain_divergences_only():
    for settings in ({"name": "atkd"}, {"name": "forward_kl", "adaptive": True}, {"name": "minillm_paper"}):
        with pytest.raises(ValueError, match=r"objective\.tokens=easy leaves tokens out of a plain divergence, but"):
            ObjectiveConfig(tokens="easy", **settings)


@pytest.mark.parametrize(
    ("name", "gated"),
    [
        ("forward_kl", {}),
        ("reverse_kl", {"direction": "reverse"}),
        ("generalized_jsd", {"divergence": "generalized_jsd", "beta": 0.3}),
        ("total_variation", {"divergence": "total_variation"}),
        ("skewed_forward_kl", {"divergence": "skewed_forward_kl", "alpha": 0.2}),
        ("atkd", {}),
    ],
)
def test_adaptive_is_the_gate_on_the_divergence_of_that_name(batch, name, gated):
    own = {share: gated[share] for share in ("beta", "alpha") if share in gated}
    adaptive = value_and_gradient(ObjectiveConfig(name=name, adaptive=True, **own), batch, 1)
    expected = value_and_gradient(ObjectiveConfig(name="atkd", **gated), batch, 1)
    assert adaptive[0] == expected[0]
    np.testing.assert_array_equal(adaptive[1], expected[1])
