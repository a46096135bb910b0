"""ATKD in a Flax Linen training step, from hidden states and heads: `python examples/linen_step.py`.

The models return their last hidden states, and the loss takes those and the heads: the logits `[tokens, vocab]`, which
are the largest array of a step with a real vocabulary, are never built.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from atkd_jax import losses

VOCABULARY = 64
SHARPNESS = 30.0  # An untrained teacher is nearly uniform; multiplied by this it has opinions.


class LanguageModel(nn.Module):
    """Reads a token, returns a hidden state and the matrix that makes logits of it."""

    width: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns `[..., width]` and `[width, vocab]`."""
        hidden = nn.gelu(nn.Embed(VOCABULARY, self.width)(tokens))
        head = self.param("head", nn.initializers.lecun_normal(), (self.width, VOCABULARY))
        return hidden, head


STUDENT, TEACHER = LanguageModel(16), LanguageModel(128)
OPTIMIZER = optax.adam(3e-2)


@jax.jit
def train_step(params, optimizer_state, teacher_params, tokens, mask):
    """Returns the new parameters and optimizer state, and the loss."""
    # Hidden states at t are paired with the token at t + 1: the losses do not shift.
    teacher_hidden, teacher_head = TEACHER.apply(teacher_params, tokens[:, :-1])
    loss_of_hidden = partial(
        losses.linear_atkd,
        teacher_hidden=teacher_hidden,
        teacher_head=SHARPNESS * teacher_head,
        targets=tokens[:, 1:],
        mask=mask[:, 1:],
    )

    def loss_of(params):
        hidden, head = STUDENT.apply(params, tokens[:, :-1])
        return loss_of_hidden(student_hidden=hidden, student_head=head)[0]

    loss, gradients = jax.value_and_grad(loss_of)(params)
    updates, optimizer_state = OPTIMIZER.update(gradients, optimizer_state)
    return optax.apply_updates(params, updates), optimizer_state, loss


def main(steps: int = 30) -> list[float]:
    """Trains, prints, and returns the loss of every step."""
    tokens = jax.random.randint(jax.random.key(2), (8, 33), 0, VOCABULARY)
    mask = jnp.broadcast_to(jnp.arange(33) >= 4, tokens.shape)  # The first four tokens of a row are its prompt.
    teacher_params = TEACHER.init(jax.random.key(0), tokens)
    params = STUDENT.init(jax.random.key(1), tokens)
    optimizer_state = OPTIMIZER.init(params)
    history = []
    for step in range(steps):
        params, optimizer_state, loss = train_step(params, optimizer_state, teacher_params, tokens, mask)
        history.append(float(loss))
        if step % 10 == 0:
            print(f"step {step:3d}  loss {loss:.4f}")
    print(f"last loss {history[-1]:.4f}")
    return history


if __name__ == "__main__":
    main()
