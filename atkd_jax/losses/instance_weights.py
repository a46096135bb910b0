"""AdaKD: how much of each example is learned from the teacher, by how hard the example is for the teacher itself.

The weight is of an example, whatever its two losses are: of texts, of sounds, of images. Easy examples, those on which
the teacher's own task loss is below the data's mean, are distilled first; as the steepness falls through 0 the hard
ones take their place.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from atkd_jax.losses import validation


def instance_weights(
    *, teacher_task_loss: jax.Array, threshold: jax.Array | float, steepness: jax.Array | float
) -> jax.Array:
    """Returns alpha = exp(-exp(k (x - t) / 2)) of every example: the share of the distillation loss, between 0 and 1.

    With x the teacher's loss on the example, t the threshold and k the steepness. At x = t it is 1/e for every k. With
    k > 0 examples that are easy for the teacher have the larger weights, with k < 0 the hard ones.

    Args:
      teacher_task_loss: `[...]`, x, one number per example; inf where the teacher excludes what the data has.
      threshold: t, the mean of x over the data; a number or a scalar array.
      steepness: k; a number or a scalar array, which may follow a schedule inside a compiled step.

    Returns:
      `[...]` in float32, or float64 where the loss has it. An example's weight depends on its own loss only.

    Gradient:
      None: a weight is a constant of its example.

    Raises:
      TypeError: the loss is not of floating type.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> easy_and_hard = jnp.array([1.8, 2.2])
      >>> weights = losses.instance_weights(teacher_task_loss=easy_and_hard, threshold=2.0, steepness=15.0)
      >>> print([f"{weight:.4f}" for weight in weights])
      ['0.8000', '0.0113']

    Reference:
      Ganguly et al., AdaKD, arXiv 2405.08019, section 3: alpha = exp(-1 / sqrt(d)), d = exp(-k (x - t)).
    """
    loss = _floating("instance_weights", "teacher_task_loss", teacher_task_loss)
    loss, threshold, steepness = jax.lax.stop_gradient((loss, threshold, steepness))
    steepness = jnp.asarray(steepness, loss.dtype)
    exponent = 0.5 * steepness * (loss - jnp.asarray(threshold, loss.dtype))
    # At k = 0 every example is alike, also one whose loss is inf.
    return jnp.exp(-jnp.exp(jnp.where(steepness == 0, 0, exponent)))


def instance_weighted(*, kd_loss: jax.Array, task_loss: jax.Array, weights: jax.Array) -> jax.Array:
    """Returns alpha KD + (1 - alpha) task of every example, in the unit of the losses; their mean is the batch's loss.

    A loss whose share is 0 has no influence, even where it is inf or NaN.

    Args:
      kd_loss: `[...]`, the student's distillation loss on each example.
      task_loss: `[...]`, its loss on the data.
      weights: `[...]`, as from `instance_weights`.

    Returns:
      `[...]`.

    Gradient:
      alpha by the distillation loss, 1 - alpha by the task's loss, none by the weights.

    Raises:
      TypeError: an array is not of floating type.
      ValueError: the shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> kd, task, weights = jnp.array([2.0, 2.0]), jnp.array([4.0, 4.0]), jnp.array([1.0, 0.25])
      >>> losses.instance_weighted(kd_loss=kd, task_loss=task, weights=weights).tolist()
      [2.0, 3.5]

    Reference:
      Ganguly et al., AdaKD, arXiv 2405.08019, section 3.
    """
    arrays = {"kd_loss": kd_loss, "task_loss": task_loss, "weights": weights}
    kd, task, alpha = (_floating("instance_weighted", name, array) for name, array in arrays.items())
    if not kd.shape == task.shape == alpha.shape:
        raise ValueError(
            "instance_weighted: kd_loss, task_loss and weights must have one number per example, got shapes "
            f"{kd.shape}, {task.shape} and {alpha.shape}; average each loss within its example first"
        )
    kd, alpha = kd.astype(task.dtype), jax.lax.stop_gradient(alpha).astype(task.dtype)
    of_kd, of_task = (jnp.where(share == 0, 0, loss) for share, loss in ((alpha, kd), (1 - alpha, task)))
    return alpha * of_kd + (1 - alpha) * of_task


def instance_steepness(
    *, step: jax.Array | int, steps: int, start: jax.Array | float, end: jax.Array | float
) -> jax.Array:
    """Returns k at an optimizer step, on the line from `start` at step 0 to `end` at the last one, step `steps` - 1.

    Args:
      step: the number of the step, from 0; may be traced. Micro-batches are not steps.
      steps: of the whole training, a Python integer.
      start: above 0 to distil easy examples first.
      end: below 0 to end with the hard ones.

    Returns:
      A float32 scalar; beyond the last step it stays at `end`.

    Gradient:
      By `start` and `end`, which nothing uses.

    Raises:
      TypeError: `steps` is no integer.
      ValueError: `steps` is below 1.

    Example:
      >>> from atkd_jax import losses
      >>> [float(losses.instance_steepness(step=step, steps=11, start=15.0, end=-10.0)) for step in (0, 5, 10)]
      [15.0, 2.5, -10.0]

    Reference:
      Ganguly et al., AdaKD, arXiv 2405.08019, section 3.
    """
    last = validation.count("instance_steepness", "steps", steps) - 1
    progress = jnp.minimum(jnp.asarray(step).astype(jnp.float32) / max(last, 1), 1.0)
    start, end = (jnp.asarray(value, jnp.float32) for value in (start, end))
    return (1 - progress) * start + progress * end


def example_means(*, values: jax.Array, mask: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """Returns, at every token, the mean of its own example's counted values: an example's loss from its tokens'.

    Several examples may share a row, each a segment of its own; none goes on in another row.

    Args:
      values: `[..., T]`, such as -log p(target) of each token.
      mask: bool `[..., T]`, True where a token counts.
      segment_ids: `[..., T]` of integers in 0..T: tokens of a row with equal numbers are one example.

    Returns:
      `[..., T]` in float32 or better, the same number at all tokens of an example, 0 where none of them counts. What
      stands at an uncounted token has no influence.

    Gradient:
      1 / n by each of an example's n counted values.

    Raises:
      TypeError: values are not floating, the mask not boolean, or segment ids not integer.
      ValueError: the shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> values, mask = jnp.array([9.0, 1.0, 3.0, 5.0]), jnp.array([False, True, True, True])
      >>> losses.example_means(values=values, mask=mask, segment_ids=jnp.array([1, 1, 1, 2])).tolist()
      [2.0, 2.0, 2.0, 5.0]
    """
    function = "example_means"
    values = _floating(function, "values", values)
    mask, segments = _examples(function, mask, segment_ids, jnp.shape(values))
    total = _sums_of_examples(jnp.where(mask, values, 0), segments)
    return total / jnp.maximum(_sums_of_examples(mask.astype(values.dtype), segments), 1)


def example_shares(*, mask: jax.Array, segment_ids: jax.Array) -> jax.Array:
    """Returns 1 / n at each of an example's n counted tokens, and 0 at the others.

    Weighted by it, a sum over tokens is the sum over examples of each one's mean; its own sum is how many examples have
    a counted token.

    Args:
      mask: bool `[..., T]`, True where a token counts.
      segment_ids: `[..., T]` of integers in 0..T, as in `example_means`.

    Returns:
      float32 `[..., T]`.

    Gradient:
      None.

    Raises:
      TypeError: the mask is not boolean, or segment ids not integer.
      ValueError: the shapes differ.

    Example:
      >>> import jax.numpy as jnp
      >>> from atkd_jax import losses
      >>> mask, segments = jnp.array([False, True, True, True]), jnp.array([1, 1, 1, 2])
      >>> losses.example_shares(mask=mask, segment_ids=segments).tolist()
      [0.0, 0.5, 0.5, 1.0]
    """
    mask, segments = _examples("example_shares", mask, segment_ids, jnp.shape(mask))
    return jnp.where(mask, 1 / jnp.maximum(_sums_of_examples(mask.astype(jnp.float32), segments), 1), 0)


def _sums_of_examples(values: jax.Array, segments: jax.Array) -> jax.Array:
    length = values.shape[-1]

    def of_row(values: jax.Array, segments: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(values, segments, num_segments=length + 1)[segments]

    flat = (array.reshape(-1, length) for array in (values, segments))
    return jax.vmap(of_row)(*flat).reshape(values.shape)


def _examples(function: str, mask, segment_ids, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    mask = validation.boolean(function, "mask", mask, shape)
    segments = jnp.asarray(segment_ids)
    if not jnp.issubdtype(segments.dtype, jnp.integer):
        raise TypeError(f"{function}: segment_ids must be of integer type, got {segments.dtype}; number the examples")
    if not shape or segments.shape != shape:
        raise ValueError(
            f"{function}: there must be one value and one segment id for every token, shape [..., T], got {shape} and "
            f"{segments.shape}; keep the token axis"
        )
    return mask, segments


def _floating(function: str, name: str, array) -> jax.Array:
    array = jnp.asarray(array)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{function}: {name} must be of floating type, got {array.dtype}; pass losses")
    return array if array.dtype == jnp.float64 else array.astype(jnp.float32)
