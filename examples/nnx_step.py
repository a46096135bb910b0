"""ATKD in a Flax NNX training step: `python examples/nnx_step.py`."""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from atkd_jax import losses

VOCABULARY = 64
SHARPNESS = 30.0  # An untrained teacher is nearly uniform; multiplied by this it has opinions.


class LanguageModel(nnx.Module):
    """Reads a token, says how likely each token is to be next."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.embedding = nnx.Embed(VOCABULARY, width, rngs=rngs)
        self.head = nnx.Linear(width, VOCABULARY, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Returns the logits of the next token, `[..., vocab]`."""
        return self.head(nnx.gelu(self.embedding(tokens)))


@nnx.jit
def train_step(student: LanguageModel, teacher: LanguageModel, optimizer: nnx.Optimizer, tokens, mask):
    """Updates the student; returns the loss and what to log."""
    # Logits at t are paired with the token at t + 1: the losses do not shift.
    targets, counted = tokens[:, 1:], mask[:, 1:]
    teacher_logits = SHARPNESS * jax.lax.stop_gradient(teacher(tokens[:, :-1]))

    def loss_of(student: LanguageModel):
        student_logits = student(tokens[:, :-1])
        return losses.atkd(student_logits=student_logits, teacher_logits=teacher_logits, targets=targets, mask=counted)

    (loss, diagnostics), gradients = nnx.value_and_grad(loss_of, has_aux=True)(student)
    optimizer.update(student, gradients)
    return loss, diagnostics


def main(steps: int = 30) -> list[float]:
    """Trains, prints, and returns the loss of every step."""
    teacher, student = LanguageModel(128, rngs=nnx.Rngs(0)), LanguageModel(16, rngs=nnx.Rngs(1))
    optimizer = nnx.Optimizer(student, optax.adam(3e-2), wrt=nnx.Param)
    tokens = jax.random.randint(jax.random.key(2), (8, 33), 0, VOCABULARY)
    mask = jnp.broadcast_to(jnp.arange(33) >= 4, tokens.shape)  # The first four tokens of a row are its prompt.
    history = []
    for step in range(steps):
        loss, diagnostics = train_step(student, teacher, optimizer, tokens, mask)
        history.append(float(loss))
        if step % 10 == 0:
            print(f"step {step:3d}  loss {loss:.4f}  easy tokens {diagnostics['easy_share']:.2f}")
    print(f"last loss {history[-1]:.4f}")
    return history


if __name__ == "__main__":
    main()
