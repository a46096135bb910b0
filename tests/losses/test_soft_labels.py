"""Soft labels against the pairs' cosines in NumPy float64, and the loss against PyTorch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from atkd_jax import losses

CLASSES, EACH, WIDTH = 3, 2, 4


@pytest.fixture(scope="module")
def embeddings():
    c, i, d = np.meshgrid(np.arange(CLASSES), np.arange(EACH), np.arange(WIDTH), indexing="ij")
    return np.abs(np.sin(1 + 0.7 * c + 0.3 * i + 0.9 * d))


def means_of(embeddings):
    flat = jnp.asarray(embeddings.reshape(-1, WIDTH))
    return losses.class_means(embeddings=flat, labels=np.repeat(np.arange(CLASSES), EACH), classes=CLASSES)


def test_the_golden_row(embeddings):
    with jax.enable_x64(True):
        of = means_of(embeddings)
        row = losses.similarity_rows(of=of, rows=jnp.array(0))
        label = losses.soft_labels(of=of, targets=jnp.array(0), delta=0.0225)
    np.testing.assert_allclose(row, [0.9594192672, 0.8786036629, 0.7251689607], atol=5e-11)
    np.testing.assert_allclose(label, [0.3737753746, 0.3370864447, 0.2891381807], atol=5e-11)


def test_similarities_are_means_over_pairs_of_different_embeddings():
    rng = np.random.default_rng(0)
    labels = np.array([0, 0, 0, 1, 1, 2])
    vectors = rng.normal(size=(6, WIDTH))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T
    expected = np.zeros((3, 3))
    for a, b in np.ndindex(3, 3):
        pairs = [cosines[i, j] for i in range(6) for j in range(6) if (labels[i], labels[j]) == (a, b) and i != j]
        expected[a, b] = np.mean(pairs) if pairs else 1.0
    of = losses.class_means(embeddings=jnp.asarray(vectors), labels=labels, classes=3)
    found = losses.similarity_rows(of=of, rows=jnp.arange(3), delta=0.5)
    np.testing.assert_allclose(found, expected + 0.5 * np.eye(3), atol=1e-6)


def test_a_vocabulary_never_becomes_a_square():
    """Two rows of fifty thousand classes are worked out in the memory of the factor and of the rows."""
    classes = 50_000
    of = losses.ClassMeans(
        jax.ShapeDtypeStruct((classes, 8), jnp.float32), jax.ShapeDtypeStruct((classes,), jnp.float32)
    )
    rows = jax.ShapeDtypeStruct((2,), jnp.int32)
    compiled = jax.jit(lambda of, rows: losses.soft_labels(of=of, targets=rows)).lower(of, rows).compile()
    analysis = compiled.memory_analysis()
    assert analysis.temp_size_in_bytes + analysis.output_size_in_bytes < 4 * classes * 40


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("distance", ["soft_cross_entropy", "kl", "kl_element_mean"])
def test_the_loss_is_pytorchs(distance, temperature):
    rng = np.random.default_rng(1)
    logits, targets = rng.normal(size=(5, 4)), rng.integers(0, 4, 5)
    soft = rng.dirichlet(np.ones(4), size=5)
    z, s = torch.tensor(logits, requires_grad=True), torch.tensor(soft)
    log_q = torch.log_softmax(z / temperature, -1)
    apart = {
        "soft_cross_entropy": lambda: torch.nn.functional.cross_entropy(z / temperature, s),
        "kl": lambda: torch.nn.functional.kl_div(log_q, s, reduction="batchmean"),
        "kl_element_mean": lambda: torch.nn.functional.kl_div(log_q, s, reduction="mean"),
    }[distance]()
    labels = torch.tensor(targets)
    expected = 0.3 * torch.nn.functional.cross_entropy(z, labels) + 0.7 * temperature**2 * apart
    expected.backward()

    def mean_loss(logits):
        arrays = {"student_logits": logits, "targets": targets, "soft_labels": jnp.asarray(soft)}
        return jnp.mean(losses.soft_label_loss(**arrays, weight=0.7, temperature=temperature, distance=distance))

    with jax.enable_x64(True):
        value, gradient = jax.value_and_grad(mean_loss)(jnp.asarray(logits))
    np.testing.assert_allclose(value, expected.item(), rtol=1e-10)
    np.testing.assert_allclose(gradient, z.grad.numpy(), rtol=1e-9, atol=1e-12)


def test_wrong_arguments_are_named():
    ok = {"student_logits": jnp.zeros(2), "targets": jnp.array(0), "soft_labels": jnp.array([0.5, 0.5])}
    with pytest.raises(ValueError, match="distance must be 'soft_cross_entropy' or 'kl' or 'kl_element_mean'"):
        losses.soft_label_loss(**ok, distance="mse")
    with pytest.raises(TypeError, match="rows must be of integer type"):
        losses.similarity_rows(of=losses.ClassMeans(jnp.eye(2), jnp.ones(2)), rows=jnp.array(0.5))
    with pytest.raises(ValueError, match=r"embeddings must have shape \[examples, width\]"):
        losses.class_means(embeddings=jnp.ones((2, 2, 2)), labels=jnp.zeros((2, 2), jnp.int32), classes=2)
