"""`launch.py plan`: compile the config's train step for a TPU topology that is not here, and say what it would be."""

from __future__ import annotations

import json
from pathlib import Path

import jax
from rich.console import Console

from atkd_jax.commands.plan_report import print_plan
from atkd_jax.commands.plan_search import search
from atkd_jax.commands.plan_summary import summary_of
from atkd_jax.commands.verbs import PlanOptions
from atkd_jax.config import Config
from atkd_jax.errors import InputError
from atkd_jax.interop import KNOWN_MODELS, PUBLISHED, load_tokenizer, read_config
from atkd_jax.models import DecoderConfig
from atkd_jax.sharding.chips import parse_topology, topology_devices
from atkd_jax.training.ahead_of_time import Shapes, compile_ahead
from atkd_jax.training.student import student_config


def run(options: PlanOptions) -> None:
    """Prints the plan of the config's run, or with `--search` ranks those of runs like it.

    Raises:
        InputError: The topology or a model is not known, or the batch does not fit the mesh.
    """
    # Nothing of this runs on a device of this machine, and none need be taken from who uses it.
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    config, topology = options.settings, options.topology
    chip, _ = parse_topology(topology)
    devices = topology_devices(topology)
    shapes = model_shapes(config)
    console = Console(stderr=options.json)
    if options.search:
        search(options, shapes=shapes, chip=chip, devices=devices, console=console)
        return
    console.print(f"Compiling the train step for {topology}, {len(devices)} chips: some minutes ...", highlight=False)
    ahead = compile_ahead(config, shapes=shapes, chip=chip, devices=devices)
    summary = summary_of(config, shapes=shapes, chip=chip, topology=topology, ahead=ahead)
    if options.json:
        print(json.dumps(summary))
    else:
        print_plan(summary, console=console)


def model_shapes(config: Config) -> Shapes:
    """Returns the shapes of the config's models: from the table of published ones, or from a directory.

    Raises:
        InputError: A model is neither.
    """
    if config.student.lora.rank is not None or config.teacher.quantize is not None:
        raise InputError(
            "plan: compiles steps that train all of the student beside a float teacher, but student.lora.rank or "
            "teacher.quantize is set; leave them out for an upper bound, or see `train --dry-run`."
        )
    teacher, vocab_size = _known(config.teacher.model, config)
    if config.student.init == "directory":
        student, own_size = _known(str(config.student.directory), config)
        if config.objective.pairs_tokens:
            return Shapes(teacher, student, own_size, vocab_size)
    else:
        student = student_config(config.student, teacher=teacher)
    return Shapes(teacher, student, vocab_size)


def _known(name: str, config: Config) -> tuple[DecoderConfig, int]:
    """Returns a model's shape and its tokenizer's size; no weights are read and no hub is asked."""
    hub_id = KNOWN_MODELS[name].hub_id if name in KNOWN_MODELS else name
    fetched = config.cache_dir / "models" / name.replace("/", "--")
    for directory in (Path(name).expanduser(), fetched):
        if (directory / "config.json").is_file():
            shape = read_config(directory)
            has_tokenizer = (directory / "tokenizer.json").is_file()
            return shape, len(load_tokenizer(directory)) if has_tokenizer else shape.vocab_size
    if hub_id not in PUBLISHED:
        raise InputError(
            f"plan: {name} must be a directory with a config.json, a model that was fetched, or one of the published "
            f"shapes that are known here: {', '.join(PUBLISHED)}; put its config.json into a directory and name that"
        )
    return PUBLISHED[hub_id].shape, PUBLISHED[hub_id].tokenizer_size
