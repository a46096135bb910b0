"""`launch.py train --dry-run` of image classes and of scorers: their models, which no language model stands for."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

from atkd_jax.commands.student import abstract_decoder
from atkd_jax.config import Config
from atkd_jax.config_file import dump_config
from atkd_jax.data import load_images
from atkd_jax.interop import fetch_model, read_config
from atkd_jax.models import (
    ImageAutoencoder,
    ImageClassifier,
    SequenceClassifier,
    TextScorer,
    axes_around_decoder,
    pruned_config,
)
from atkd_jax.training.labelled_run import labelled_mesh
from atkd_jax.training.optimizer import make_optimizer
from atkd_jax.training.placement import bytes_on_device, state_shardings
from atkd_jax.training.scoring import answers_of, classes_of, teacher_pruning
from atkd_jax.training.state import initial_state


def print_labelled_dry_run(config: Config, *, console: Console) -> None:
    """Prints the resolved config, and each model's parameters and what a device holds of it between steps.

    The data is read, since it says how many classes there are, and so is the teacher's config.json.
    """
    mesh = labelled_mesh(config)
    models = labelled_models(config, console=console)
    console.print(dump_config(config), highlight=False, soft_wrap=True)
    console.print(f"mesh: {', '.join(f'{axis} {size}' for axis, size in mesh.shape.items())}", highlight=False)
    caption = "weights, gradient and optimizer's state; without the activations that the backward pass keeps"
    table = Table("", title="Models, one after the other", caption=caption, title_justify="left")
    for column in ("parameters", "held on a device"):
        table.add_column(column, justify="right")
    for name, model in models.items():
        params = nnx.split(model)[1]
        held = _held_bytes(config, params, mesh=mesh)
        table.add_row(name, f"{sum(leaf.size for leaf in jax.tree.leaves(params)):,}", f"{held / 2**20:,.1f} MiB")
    console.print(table)
    console.print("Nothing was started.")


def labelled_models(config: Config, *, console: Console) -> dict[str, nnx.Module]:
    """Returns what a labelled run trains, in its order, with arrays that are `jax.ShapeDtypeStruct`."""
    report = partial(console.print, highlight=False, soft_wrap=True)
    if config.images.source is not None:
        own = config.images
        images = load_images(str(own.source), split=own.train_split, cache_dir=config.cache_dir, report=report)
        channels = images.images.shape[-1]
        student = nnx.eval_shape(
            lambda: ImageClassifier(channels, images.classes, width=own.width, rngs=nnx.Rngs(params=0))
        )
        if own.weight == 0:
            return {"student": student}
        autoencoder = nnx.eval_shape(lambda: ImageAutoencoder(channels, rngs=nnx.Rngs(params=0)))
        return {"autoencoder": autoencoder, "student": student}
    own = config.answers
    classes = classes_of(answers_of(config, own.train_split, console=console))
    student = nnx.eval_shape(lambda: TextScorer(own.buckets, classes, width=own.width, rngs=nnx.Rngs(params=0)))
    if own.teacher_weight == 0:
        return {"student": student}
    shape = read_config(fetch_model(config.teacher.model, cache_dir=config.cache_dir, report=report))
    kept = pruned_config(shape, teacher_pruning(config, shape))
    decoder = abstract_decoder(kept, dtype=config.training.dtype, param_dtype="float32")
    teacher = nnx.eval_shape(lambda decoder: SequenceClassifier(decoder, classes, rngs=nnx.Rngs(params=0)), decoder)
    return {"teacher": teacher, "student": student, "student without KD": student}


def _held_bytes(config: Config, params: Any, *, mesh: Mesh) -> float:
    optimizer = make_optimizer(config.optimizer, steps=config.training.steps)
    state = jax.eval_shape(lambda params: initial_state(params, optimizer=optimizer, seed=0), params)
    places = state_shardings(params, mesh=mesh, optimizer=optimizer, axes=axes_around_decoder)
    moments = bytes_on_device(state.optimizer_state, places.optimizer_state)
    return 2 * bytes_on_device(params, places.params) + moments
