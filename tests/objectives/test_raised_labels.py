import jax
import jax.numpy as jnp
import numpy as np

from atkd_jax import losses
from atkd_jax.config import ObjectiveConfig
from atkd_jax.objectives import Heads, Tokens, head_loss, make_objective

VOCAB, DELTA = 9, 1.5


def test_the_gradient_is_that_of_the_loss_on_the_raised_soft_labels():
    keys = jax.random.split(jax.random.key(0), 3)
    student, rows = (2.0 * jax.random.normal(key, (3, 5, VOCAB)) for key in keys[:2])
    targets = jax.random.randint(keys[2], (3, 5), 0, VOCAB)
    mask = jnp.arange(15).reshape(3, 5) % 4 > 0
    soft = jax.nn.softmax(rows + DELTA * jax.nn.one_hot(targets, VOCAB), axis=-1)

    def expected(student):
        arrays = {"student_logits": student, "targets": targets, "soft_labels": soft}
        per_token = losses.soft_label_loss(**arrays, weight=0.7)
        return jnp.sum(jnp.where(mask, per_token, 0)) / jnp.sum(mask).astype(jnp.float32)

    similarity = {"scale": 1.0, "delta": DELTA}
    config = ObjectiveConfig(name="forward_kl", cross_entropy_weight=0.3, token_similarity=similarity)
    objective = make_objective(config)
    weighting = objective.weighting(losses.target_log_prob(logits=rows, targets=targets), mask)

    def ours(student):
        heads, tokens = Heads(jnp.eye(VOCAB), jnp.eye(VOCAB), VOCAB), Tokens(rows, targets, mask, weighting)
        return head_loss(objective, student_hidden=student, heads=heads, tokens=tokens, chunk_tokens=8)[0]

    constants = []
    for logits in (student, jnp.flip(student, axis=-1)):
        np.testing.assert_allclose(jax.grad(ours)(logits), jax.grad(expected)(logits), rtol=2e-5, atol=1e-7)
        constants.append(ours(logits) - expected(logits))
    np.testing.assert_allclose(constants[0], constants[1], rtol=1e-4)
