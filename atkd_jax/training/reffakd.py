"""ReffAKD on labelled images: an autoencoder, how alike the classes are to it, and a student that learns from that."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console

from atkd_jax import losses
from atkd_jax.config import Config
from atkd_jax.data import LabelledImages, load_images
from atkd_jax.errors import InputError
from atkd_jax.models import ImageAutoencoder, ImageClassifier
from atkd_jax.training.labelled_run import labelled_mesh, on_one_device, train_labelled
from atkd_jax.training.loop import Outcome

_EMBEDDED_AT_ONCE = 256


class ImageRun(NamedTuple):
    """How a run ended, and the student's share of right answers on the test split."""

    outcome: Outcome
    accuracy: float


def train_on_images(
    config: Config, *, console: Console | None = None, before_start: Callable[[], None] = lambda: None
) -> ImageRun:
    """Trains the autoencoder, below `run_dir/autoencoder`, and then the student, in `run_dir`.

    Both go on from their newest checkpoints. With `images.weight` 0 there is no autoencoder: the student learns from
    the labels alone. `accuracy.json` in the run directory holds what was measured at the end.

    Args:
        config: `images` says what; the loop's settings are those of every run.
        console: Where the progress lines go.
        before_start: Called once the data is there, before anything is written.

    Raises:
        InputError: if the data cannot be had, or its splits do not fit together.
    """
    console = console or Console()
    report = partial(console.print, highlight=False, soft_wrap=True)
    mesh = labelled_mesh(config)
    load = partial(load_images, str(config.images.source), cache_dir=config.cache_dir, report=report)
    train, test = load(split=config.images.train_split), load(split=config.images.test_split)
    if train.images.shape[1:] != test.images.shape[1:]:
        raise InputError(
            f"The images of {config.images.train_split} and {config.images.test_split} must have one shape, but "
            f"{train.images.shape[1:]} and {test.images.shape[1:]} came; name other splits."
        )
    before_start()
    soft = None if config.images.weight == 0 else soft_labels_of(train, config, console=console)
    channels = train.images.shape[-1]
    student = ImageClassifier(channels, train.classes, width=config.images.width, rngs=nnx.Rngs(params=config.seed))
    arrays = {"images": train.images, "labels": train.labels}
    outcome = train_labelled(student, arrays, _loss_of(config, soft), config=config, mesh=mesh, console=console)
    on_one_device(student)
    accuracy = accuracy_of(student, test)
    facts = {"source": config.images.source, "split": config.images.test_split, "accuracy": accuracy}
    text = json.dumps(facts | {"examples": len(test.labels), "step": int(outcome.state.step)}, indent=2)
    (config.run_dir / "accuracy.json").write_text(text + "\n", encoding="utf-8")
    report(f"Right on {accuracy:.1%} of {len(test.labels):,} images of {config.images.test_split}.")
    return ImageRun(outcome, accuracy)


def soft_labels_of(train: LabelledImages, config: Config, *, console: Console) -> np.ndarray:
    """Returns the soft label of every class, `[classes, classes]`, from an autoencoder that is trained for it.

    Args:
        train: The images, whose labels only name the classes.
        config: Of the run; its autoencoder has the same loop, optimizer and batch size.
        console: Where the progress line goes.
    """
    model = ImageAutoencoder(train.images.shape[-1], rngs=nnx.Rngs(params=config.seed))
    training = config.training.model_copy(update={"steps": config.images.autoencoder_steps})
    own = config.model_copy(update={"run_dir": config.run_dir / "autoencoder", "training": training})

    def loss_of(model: ImageAutoencoder, batch: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        return jnp.mean(jnp.square(model(batch["images"]) - batch["images"]), axis=(1, 2, 3)), {}

    train_labelled(model, {"images": train.images}, loss_of, config=own, mesh=labelled_mesh(own), console=console)
    on_one_device(model)
    embed = nnx.jit(lambda model, images: model.embed(images))
    parts = [
        embed(model, part)
        for part in np.split(train.images, range(_EMBEDDED_AT_ONCE, len(train.images), _EMBEDDED_AT_ONCE))
    ]
    of = losses.class_means(embeddings=jnp.concatenate(parts), labels=jnp.asarray(train.labels), classes=train.classes)
    return np.asarray(losses.soft_labels(of=of, targets=jnp.arange(train.classes), delta=config.images.delta))


def accuracy_of(student: ImageClassifier, test: LabelledImages) -> float:
    """Returns the share of images whose likeliest class is theirs."""
    logits_of = nnx.jit(lambda student, images: student(images))
    parts = np.split(test.images, range(_EMBEDDED_AT_ONCE, len(test.images), _EMBEDDED_AT_ONCE))
    guesses = np.concatenate([np.asarray(logits_of(student, part)).argmax(-1) for part in parts])
    return float(np.mean(guesses == test.labels))


def _loss_of(config: Config, soft: np.ndarray | None):
    images = config.images

    def loss_of(student: ImageClassifier, batch: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits, labels = student(batch["images"]), batch["labels"]
        plain = losses.cross_entropy(student_logits=logits, targets=labels)
        metrics = {"cross_entropy": plain, "accuracy": (logits.argmax(-1) == labels).astype(jnp.float32)}
        if soft is None:
            return plain, metrics
        loss = losses.soft_label_loss(
            student_logits=logits,
            targets=labels,
            soft_labels=jnp.asarray(soft)[labels],
            weight=images.weight,
            temperature=images.temperature,
            distance=images.distance,
        )
        return loss, metrics

    return loss_of
