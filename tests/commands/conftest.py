"""A tiny run: teacher, data, config, and a checkpoint such as training leaves."""

import json

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from atkd_jax.config import Config
from atkd_jax.config_file import dump_config
from atkd_jax.interop import load_model
from atkd_jax.sharding import make_mesh
from atkd_jax.training.checkpoints import Checkpoints
from atkd_jax.training.optimizer import make_optimizer
from atkd_jax.training.placement import place_state
from atkd_jax.training.student import build_student

TRAINED_STEPS = 3
PAIRS = [
    {"prompt": f"Add {number} to x.", "response": f"def add(x):\n    return x + {number}\n"} for number in range(12)
]


def tiny_config(tiny_teacher_directory, directory, **changes):
    """A config of the tiny teacher and twelve pairs, everything below `directory`."""
    pairs = directory / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    tree = {
        "run_dir": str(directory / "run"),
        "cache_dir": str(directory / "cache"),
        "teacher": {"model": str(tiny_teacher_directory)},
        "student": {"keep_layers": [0, 3]},
        "data": {"source": str(pairs), "sequence_length": 64},
        "training": {"steps": TRAINED_STEPS, "batch_size": 8},
        "evaluation": {"split": "train", "batch_size": 4, "samples": 1, "sample_tokens": 4},
    }
    return Config.model_validate(tree | changes)


def written(config, directory):
    """The words that make a verb read this config."""
    path = directory / "config.yaml"
    path.write_text(dump_config(config))
    return ["--config", str(path)]


@pytest.fixture
def untrained(tiny_teacher_directory, tmp_path):
    """A config whose run has not begun."""
    return tiny_config(tiny_teacher_directory, tmp_path)


@pytest.fixture
def untrained_words(untrained, tmp_path):
    return written(untrained, tmp_path)


@pytest.fixture(scope="session")
def trained(tiny_teacher_directory, tmp_path_factory):
    """A config whose run has a checkpoint: the pruned teacher, its weights moved a little."""
    config = tiny_config(tiny_teacher_directory, tmp_path_factory.mktemp("trained"))
    teacher = load_model(tiny_teacher_directory)
    student = build_student(config.student, teacher=teacher, dtype=jnp.dtype("float32"), remat="none", seed=0)
    moved = jax.tree.map(lambda param: 1.5 * param, nnx.state(student))
    optimizer = make_optimizer(config.optimizer, steps=TRAINED_STEPS)
    state = place_state(moved, mesh=make_mesh(), optimizer=optimizer, seed=0)
    with Checkpoints(config.run_dir / "checkpoints", keep=1) as checkpoints:
        checkpoints.save(state, step=TRAINED_STEPS, data_state={}, config=config.model_dump(mode="json"))
    return config


@pytest.fixture
def trained_words(trained, tmp_path):
    return written(trained, tmp_path)
