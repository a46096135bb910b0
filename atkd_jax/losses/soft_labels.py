"""ReffAKD: soft labels without a teacher, from how alike the classes are to an encoder that never saw a label.

Classes may be as many as the tokens of a vocabulary: what is kept is one mean embedding of each, and rows of the
similarity matrix are formed where they are asked for. The matrix itself is never needed.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from atkd_jax.losses import validation

DISTANCES = ("soft_cross_entropy", "kl", "kl_element_mean")


class ClassMeans(NamedTuple):
    """The low-rank factor of the similarities.

    Attributes:
      means: `[classes, width]`, the mean of each class's embeddings, of which each has length 1; 0 where it has none.
      counts: `[classes]`, how many embeddings a class has.
    """

    means: jax.Array
    counts: jax.Array


def class_means(*, embeddings: jax.Array, labels: jax.Array, classes: int) -> ClassMeans:
    """Returns the mean of each class's embeddings, after each was scaled to length 1.

    Args:
      embeddings: `[examples, width]`, of any encoder.
      labels: `[examples]` of integers in 0..classes - 1.
      classes: how many there are, a Python integer.

    Returns:
      The means and counts, in float32 or better.

    Gradient:
      Ordinary; soft labels do not use it.

    Raises:
      TypeError: an array has a wrong type.
      ValueError: the shapes do not fit.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> found = losses.class_means(
      ...     embeddings=jnp.array([[2.0, 0.0], [0.0, 3.0], [0.0, 1.0]]), labels=jnp.array([0, 0, 1]), classes=2
      ... )
      >>> found.means.tolist(), found.counts.tolist()
      ([[0.5, 0.5], [0.0, 1.0]], [2.0, 1.0])

    Reference:
      Doshi and Kim, ReffAKD, arXiv 2404.09886, section 3.
    """
    classes = validation.count("class_means", "classes", classes)
    (embeddings,) = validation.scaled("class_means", 1.0, *validation.floating("class_means", embeddings=embeddings))
    labels = validation.integers("class_means", "labels", labels, embeddings.shape[:-1])
    if embeddings.ndim != 2:
        raise ValueError(f"class_means: embeddings must have shape [examples, width], got {embeddings.shape}")
    length = jnp.linalg.norm(embeddings, axis=-1, keepdims=True)
    unit = embeddings / jnp.where(length == 0, 1, length)
    counts = jax.ops.segment_sum(jnp.ones(labels.shape, unit.dtype), labels, num_segments=classes)
    total = jax.ops.segment_sum(unit, labels, num_segments=classes)
    return ClassMeans(total / jnp.maximum(counts, 1)[:, None], counts)


def similarity_rows(*, of: ClassMeans, rows: jax.Array, delta: float = 0.0) -> jax.Array:
    """Returns rows of S, the mean cosine between embeddings of two classes; a row's own class is raised by delta.

    S_ab = m_a . m_b, and S_aa = (n^2 |m_a|^2 - n) / (n (n - 1)) + delta, the mean over pairs of different embeddings. A
    class of one embedding has S_aa = 1 + delta.

    Args:
      of: the means of the classes, as from `class_means`.
      rows: `[...]` of integers, which rows.
      delta: keeps a class more like itself than like any other, so that the label stays the likeliest.

    Returns:
      `[..., classes]`; the memory is that of these rows.

    Gradient:
      Ordinary, by the means.

    Raises:
      TypeError: rows are not of integer type.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> embeddings = jnp.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
      >>> of = losses.class_means(embeddings=embeddings, labels=jnp.array([0, 0, 1]), classes=2)
      >>> row = losses.similarity_rows(of=of, rows=jnp.array(0), delta=0.05)
      >>> print([f"{similarity:.2f}" for similarity in row])
      ['0.65', '0.40']

    Reference:
      Doshi and Kim, ReffAKD, arXiv 2404.09886, section 3.
    """
    rows = jnp.asarray(rows)
    rows = validation.integers("similarity_rows", "rows", rows, rows.shape)
    own = of.means[rows]
    product = own @ of.means.T
    count = of.counts[rows]
    among_pairs = (count * jnp.sum(own * own, axis=-1) - 1) / jnp.maximum(count - 1, 1)
    of_itself = jnp.where(count > 1, among_pairs, 1) + jnp.asarray(delta, product.dtype)
    is_own = jax.nn.one_hot(rows, of.means.shape[0], dtype=jnp.bool_)
    return jnp.where(is_own, of_itself[..., None], product)


def soft_labels(*, of: ClassMeans, targets: jax.Array, delta: float = 0.0) -> jax.Array:
    """Returns the distribution that stands for each label: the softmax of its row of similarities.

    Args:
      of: the means of the classes, as from `class_means`.
      targets: `[...]` of integers, the labels.
      delta: as in `similarity_rows`.

    Returns:
      `[..., classes]`, a distribution for each target.

    Gradient:
      Ordinary, by the means.

    Raises:
      TypeError: targets are not of integer type.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> of = losses.class_means(embeddings=jnp.eye(2), labels=jnp.array([0, 1]), classes=2)
      >>> print([f"{share:.4f}" for share in losses.soft_labels(of=of, targets=jnp.array(1))])
      ['0.2689', '0.7311']

    Reference:
      Doshi and Kim, ReffAKD, arXiv 2404.09886, section 3.
    """
    return jax.nn.softmax(similarity_rows(of=of, rows=targets, delta=delta), axis=-1)


def soft_label_loss(
    *,
    student_logits: jax.Array,
    targets: jax.Array,
    soft_labels: jax.Array,
    weight: float = 0.5,
    temperature: float = 1.0,
    distance: str = "kl",
) -> jax.Array:
    """Returns (1 - a) CE + a T^2 D(soft label, softmax(z / T)) of every example, in nats.

    D is the soft cross-entropy -sum_c s_c log q_c, the KL sum_c s_c log(s_c / q_c), or, for "kl_element_mean", that KL
    divided by the number of classes too. The first two have one gradient. Means over the batch are the caller's.

    Args:
      student_logits: `[..., classes]`, z.
      targets: `[...]` of integers, the labels.
      soft_labels: `[..., classes]`, distributions; they have no temperature of their own.
      weight: a, in [0, 1].
      temperature: T, of the student only.
      distance: "soft_cross_entropy", "kl" or "kl_element_mean".

    Returns:
      `[...]`.

    Gradient:
      By the student's logits; by the soft labels too, which are usually constants.

    Raises:
      TypeError: an array has a wrong type.
      ValueError: shapes do not fit, or an option is unknown or out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> loss = losses.soft_label_loss(
      ...     student_logits=jnp.zeros(2), targets=jnp.array(0), soft_labels=jnp.array([0.75, 0.25]), weight=0.5
      ... )
      >>> print(f"{loss:.4f}")
      0.4120

    Reference:
      Doshi and Kim, ReffAKD, arXiv 2404.09886, section 3, equation 4.
    """
    function = "soft_label_loss"
    validation.choice(function, "distance", distance, DISTANCES)
    weight = validation.weight(function, "weight", weight, largest=1.0)
    logits, soft = validation.floating(function, student_logits=student_logits, soft_labels=soft_labels)
    targets = validation.integers(function, "targets", targets, logits.shape[:-1])
    (tempered,) = validation.scaled(function, temperature, logits)
    (plain,) = validation.scaled(function, 1.0, logits)
    soft = soft.astype(plain.dtype)
    of_label = jnp.take_along_axis(jax.nn.log_softmax(plain), targets[..., None], axis=-1)[..., 0]
    apart = soft_cross_entropy(student_logits=tempered, soft_labels=soft)
    if distance != "soft_cross_entropy":
        apart += jnp.sum(jax.scipy.special.xlogy(soft, soft), axis=-1)
    if distance == "kl_element_mean":
        apart /= logits.shape[-1]
    return -(1 - weight) * of_label + weight * temperature**2 * apart


def soft_cross_entropy(*, student_logits: jax.Array, soft_labels: jax.Array) -> jax.Array:
    """Returns -sum_c s_c log q_c of every example, in nats: cross-entropy to a teacher's probabilities.

    Args:
      student_logits: `[..., classes]`.
      soft_labels: `[..., classes]`, distributions.

    Returns:
      `[...]`; a class of probability 0 has no influence.

    Gradient:
      q - s by the student's logits.

    Raises:
      TypeError: an array is not of floating type.
      ValueError: the shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> loss = losses.soft_cross_entropy(student_logits=jnp.zeros(2), soft_labels=jnp.array([0.9, 0.1]))
      >>> print(f"{loss:.4f}")
      0.6931

    Reference:
      Latif et al., arXiv 2312.15842, section 3, the second term of the loss.
    """
    logits, soft = validation.floating("soft_cross_entropy", student_logits=student_logits, soft_labels=soft_labels)
    (logits,) = validation.scaled("soft_cross_entropy", 1.0, logits)
    soft = soft.astype(logits.dtype)
    return -jnp.sum(jnp.where(soft > 0, soft * jax.nn.log_softmax(logits), 0), axis=-1)
