"""ReffAKD's soft labels without a teacher, on digits: `python examples/reffakd_digits.py`.

Doshi & Kim, arXiv 2404.09886. An autoencoder that never sees a label gives every image a code; classes whose codes
point the same way are alike, and the row of a label in that similarity is its soft label. The autoencoder here is
linear, whose best code, the principal components, needs no training; `configs/neighbours/reffakd.yaml` has the paper's
convolutional one. A small network then learns from ten images a class, with the soft labels and without.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from atkd_jax import losses

CLASSES, PIXELS = 10, 64
LABELLED = 10  # Images a class.
OPTIMIZER = optax.adam(3e-3)


def codes_of(images: jax.Array, width: int = 12) -> jax.Array:
    """Returns the best linear autoencoder's codes of `[images, pixels]`: `[images, width]`."""
    _, _, components = jnp.linalg.svd(images - images.mean(axis=0, keepdims=True), full_matrices=False)
    return images @ components[:width].T


def logits_of(params: dict[str, jax.Array], images: jax.Array) -> jax.Array:
    """Returns `[images, classes]` of a network with one hidden layer."""
    return jax.nn.relu(images @ params["in"] + params["bias"]) @ params["out"]


@partial(jax.jit, static_argnames=("weight", "steps"))
def trained(params, images, labels, soft_labels, *, weight: float, steps: int):
    """Returns the parameters after so many steps on all images at once."""

    def loss_of(params):
        each = losses.soft_label_loss(
            student_logits=logits_of(params, images), targets=labels, soft_labels=soft_labels, weight=weight
        )
        return each.mean()

    def step(state, _):
        params, optimizer_state = state
        updates, optimizer_state = OPTIMIZER.update(jax.grad(loss_of)(params), optimizer_state)
        return (optax.apply_updates(params, updates), optimizer_state), None

    return jax.lax.scan(step, (params, OPTIMIZER.init(params)), length=steps)[0][0]


def main(seeds: int = 5, steps: int = 300) -> dict[float, list[float]]:
    """Trains with soft labels and without, prints, and returns each seed's accuracy by their weight."""
    images, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(images / 16, jnp.float32), np.asarray(labels, np.int32)
    means = losses.class_means(embeddings=codes_of(images), labels=jnp.asarray(labels), classes=CLASSES)
    rows = losses.soft_labels(of=means, targets=jnp.arange(CLASSES))
    for label, row in enumerate(np.asarray(rows)):
        print(f"{label} is most like {np.argsort(row)[-2]}:  {' '.join(f'{share:.3f}' for share in row)}")
    accuracies: dict[float, list[float]] = {0.0: [], 0.5: []}
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(labels))
        chosen = np.concatenate([order[labels[order] == label][:LABELLED] for label in range(CLASSES)])
        held_out = np.setdiff1d(order, chosen)
        keys = jax.random.split(jax.random.key(seed))
        params = {
            "in": jax.random.normal(keys[0], (PIXELS, 64)) / PIXELS**0.5,
            "bias": jnp.zeros(64),
            "out": jax.random.normal(keys[1], (64, CLASSES)) / 8,
        }
        targets = jnp.asarray(labels[chosen])
        for weight, found in accuracies.items():
            fitted = trained(params, images[chosen], targets, rows[targets], weight=weight, steps=steps)
            guesses = np.asarray(logits_of(fitted, images[held_out]).argmax(axis=-1))
            found.append(float(np.mean(guesses == labels[held_out])))
    for weight, found in accuracies.items():
        right = f"{np.mean(found):.1%} ± {np.std(found, ddof=1):.1%} right"
        print(f"weight of the soft labels {weight}: {right}, {seeds} seeds")
    return accuracies


if __name__ == "__main__":
    main()
