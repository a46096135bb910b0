"""ATKD in an Equinox training step, put together from its parts: `python examples/equinox_step.py`.

The batch is worked through in micro-batches. The gate ranks the tokens of the whole batch, so it comes first, from the
teacher alone; the micro-batches' sums then add up to the loss and the gradient of the whole batch.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from atkd_jax import losses

VOCABULARY, MICROBATCHES = 64, 4
SHARPNESS = 8.0  # An untrained teacher is nearly uniform; multiplied by this it has opinions.


class LanguageModel(eqx.Module):
    """Reads a token, says how likely each token is to be next."""

    embedding: eqx.nn.Embedding
    head: eqx.nn.Linear

    def __init__(self, width: int, key: jax.Array):
        embedding_key, head_key = jax.random.split(key)
        self.embedding = eqx.nn.Embedding(VOCABULARY, width, key=embedding_key)
        self.head = eqx.nn.Linear(width, VOCABULARY, key=head_key)

    def __call__(self, token: jax.Array) -> jax.Array:
        """Returns the logits of the next token, `[vocab]`."""
        return self.head(jax.nn.gelu(self.embedding(token)))


def logits_of(model: LanguageModel, tokens: jax.Array) -> jax.Array:
    """Returns `[rows, length, vocab]`."""
    return jax.vmap(jax.vmap(model))(tokens)


@eqx.filter_value_and_grad
def microbatch_loss(student: LanguageModel, teacher: LanguageModel, inputs, targets, target_weight, diversity_weight):
    """Returns a micro-batch's part of the sum that is the loss."""
    terms = losses.decoupled_terms(
        student_logits=logits_of(student, inputs),
        teacher_logits=SHARPNESS * jax.lax.stop_gradient(logits_of(teacher, inputs)),
        targets=targets,
    )
    return jnp.sum(target_weight * terms.target_kd + diversity_weight * terms.diversity_kd)


@eqx.filter_jit
def train_step(student, teacher, optimizer, optimizer_state, tokens, mask):
    """Returns the new student and optimizer state, and the loss."""
    # Logits at t are paired with the token at t + 1: the losses do not shift.
    inputs, targets, counted = tokens[:, :-1], tokens[:, 1:], mask[:, 1:]
    log_probs = losses.target_log_prob(logits=SHARPNESS * logits_of(teacher, inputs), targets=targets)
    hard = losses.hard_token_mask(target_log_probs=log_probs, mask=counted)
    weights = losses.atkd_token_weights(hard=hard, mask=counted)

    def add(total, part):
        return jax.tree.map(jnp.add, total, microbatch_loss(student, teacher, *part)), None

    parts = jax.tree.map(lambda array: array.reshape(MICROBATCHES, -1, array.shape[-1]), (inputs, targets, *weights))
    zeros = jnp.zeros(()), jax.tree.map(jnp.zeros_like, eqx.filter(student, eqx.is_inexact_array))
    (loss, gradients), _ = jax.lax.scan(add, zeros, parts)
    updates, optimizer_state = optimizer.update(gradients, optimizer_state)
    return eqx.apply_updates(student, updates), optimizer_state, loss


def main(steps: int = 30) -> list[float]:
    """Trains, prints, and returns the loss of every step."""
    teacher, student = LanguageModel(128, jax.random.key(0)), LanguageModel(16, jax.random.key(1))
    optimizer = optax.adam(3e-2)
    optimizer_state = optimizer.init(eqx.filter(student, eqx.is_inexact_array))
    tokens = jax.random.randint(jax.random.key(2), (8, 33), 0, VOCABULARY)
    mask = jnp.broadcast_to(jnp.arange(33) >= 4, tokens.shape)  # The first four tokens of a row are its prompt.
    history = []
    for step in range(steps):
        student, optimizer_state, loss = train_step(student, teacher, optimizer, optimizer_state, tokens, mask)
        history.append(float(loss))
        if step % 10 == 0:
            print(f"step {step:3d}  loss {loss:.4f}")
    print(f"last loss {history[-1]:.4f}")
    return history


if __name__ == "__main__":
    main()
