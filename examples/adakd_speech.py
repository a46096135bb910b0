"""AdaKD on speech recognition, with sound made here, a tone for every letter: `python examples/adakd_speech.py`.

A CTC student learns from a larger CTC teacher, frame by frame, and from the data. AdaKD says for every recording how
much of each: by the teacher's own CTC loss on it, which noise makes larger.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from atkd_jax import losses

LETTERS = "abcdefgh"
BLANK, PADDING = 0, 0
RATE_HZ, FRAME, MOST_LETTERS = 4000, 64, 6
FRAMES = 8 * MOST_LETTERS


class Recordings(NamedTuple):
    """Sound `[recordings, samples]`, letters `[recordings, MOST_LETTERS]` from 1, 0 where there is none."""

    sound: np.ndarray
    letters: np.ndarray


def record(count: int, *, seed: int) -> Recordings:
    """Returns words of 3 to 6 letters: a tone of its own and 5 to 8 frames each, in noise that differs by recording."""
    rng = np.random.default_rng(seed)
    sound = np.zeros((count, FRAMES * FRAME), np.float32)
    letters = np.full((count, MOST_LETTERS), PADDING, np.int32)
    for row in range(count):
        length, start = rng.integers(3, MOST_LETTERS + 1), 0
        letters[row, :length] = rng.integers(1, len(LETTERS) + 1, length)
        for letter in letters[row, :length]:
            samples = int(rng.integers(5, 9)) * FRAME
            time = np.arange(samples) / RATE_HZ
            tone = np.sin(2 * np.pi * (300 + 180 * letter) * time + rng.uniform(0, 6))
            sound[row, start : start + samples] = tone * np.hanning(samples)
            start += samples
        sound[row] += rng.uniform(0.1, 1.0) * rng.normal(size=sound.shape[1])
    return Recordings(sound, letters)


class Recognizer(nnx.Module):
    """Hears frames of sound, says how likely each letter, or none, is in each."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.near = nnx.Conv(FRAME // 2 + 1, width, kernel_size=(3,), rngs=rngs)
        self.far = nnx.Conv(width, width, kernel_size=(5,), rngs=rngs)
        self.head = nnx.Linear(width, len(LETTERS) + 1, rngs=rngs)

    def __call__(self, sound: jax.Array) -> jax.Array:
        """Returns logits, `[recordings, frames, letters + 1]`; the first is the blank's."""
        frames = sound.reshape(sound.shape[0], -1, FRAME) * jnp.hanning(FRAME)
        spectrum = jnp.log1p(jnp.abs(jnp.fft.rfft(frames)))
        return self.head(nnx.relu(self.far(nnx.relu(self.near(spectrum)))))


def task_loss(logits: jax.Array, letters: jax.Array) -> jax.Array:
    """Returns the CTC loss of each recording, in nats per letter, `[recordings]`."""
    is_padding = (letters == PADDING).astype(jnp.float32)
    ctc = optax.ctc_loss(logits, jnp.zeros(logits.shape[:2]), letters, is_padding, blank_id=BLANK)
    return ctc / jnp.sum(1 - is_padding, axis=-1)


def kd_loss(logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
    """Returns KL(teacher || student) of each recording, the mean over its frames, `[recordings]`."""
    return jnp.mean(losses.forward_kl(student_logits=logits, teacher_logits=teacher_logits), axis=-1)


def train(model: Recognizer, data: Recordings, *, steps: int, loss_of) -> None:
    """Minimises the mean of `loss_of(logits, sound, letters, step)`, `[recordings]`, with Adam on batches of 32."""
    optimizer = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param)

    @nnx.jit
    def update(model: Recognizer, optimizer: nnx.Optimizer, sound: jax.Array, letters: jax.Array, step: jax.Array):
        gradient = nnx.grad(lambda model: jnp.mean(loss_of(model(sound), sound, letters, step)))(model)
        optimizer.update(model, gradient)

    rng = np.random.default_rng(0)
    for step in range(steps):
        chosen = rng.integers(0, len(data.sound), 32)
        update(model, optimizer, data.sound[chosen], data.letters[chosen], jnp.asarray(step))


def character_error_rate(model: Recognizer, data: Recordings) -> float:
    """Returns edits per letter between what the likeliest frames spell and what was said."""
    best = np.asarray(jax.jit(lambda sound: model(sound).argmax(-1))(data.sound))
    edits = 0
    for frames, letters in zip(best, data.letters, strict=True):
        heard = [now for before, now in zip([BLANK, *frames], frames, strict=False) if now not in (before, BLANK)]
        edits += edit_distance(heard, letters[letters != PADDING].tolist())
    return edits / int(np.sum(data.letters != PADDING))


def edit_distance(one: list[int], other: list[int]) -> int:
    """Returns the fewest insertions, deletions and substitutions that turn one into the other."""
    row = list(range(len(other) + 1))
    for i, first in enumerate(one, start=1):
        diagonal, row[0] = row[0], i
        for j, second in enumerate(other, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (first != second))
    return row[-1]


def main(steps: int = 600, recordings: int = 1024) -> dict[str, float]:
    """Trains a teacher, a student by AdaKD and one by the data alone; prints and returns their error rates."""
    data, held_out = record(recordings, seed=0), record(256, seed=1)
    teacher = Recognizer(96, rngs=nnx.Rngs(0))
    train(teacher, data, steps=steps, loss_of=lambda logits, sound, letters, step: task_loss(logits, letters))
    of_teacher = jax.jit(lambda sound, letters: task_loss(teacher(sound), letters))(*data)
    threshold = float(jnp.mean(of_teacher))

    def adaptive(logits: jax.Array, sound: jax.Array, letters: jax.Array, step: jax.Array) -> jax.Array:
        teacher_logits = jax.lax.stop_gradient(teacher(sound))
        weights = losses.instance_weights(
            teacher_task_loss=task_loss(teacher_logits, letters),
            threshold=threshold,
            steepness=losses.instance_steepness(step=step, steps=steps, start=3.0, end=-3.0),
        )
        kd, task = kd_loss(logits, teacher_logits), task_loss(logits, letters)
        return losses.instance_weighted(kd_loss=kd, task_loss=task, weights=weights)

    alone, distilled = (Recognizer(24, rngs=nnx.Rngs(1)) for _ in range(2))
    rates = {"teacher": character_error_rate(teacher, held_out), "untrained": character_error_rate(alone, held_out)}
    train(alone, data, steps=steps, loss_of=lambda logits, sound, letters, step: task_loss(logits, letters))
    train(distilled, data, steps=steps, loss_of=adaptive)
    rates["student, data alone"] = character_error_rate(alone, held_out)
    rates["student, AdaKD"] = character_error_rate(distilled, held_out)
    print(f"teacher's mean loss {threshold:.3f} nats per letter: the threshold")
    for name, rate in rates.items():
        print(f"{name:20s} character error rate {rate:.1%}")
    return rates


if __name__ == "__main__":
    main()
