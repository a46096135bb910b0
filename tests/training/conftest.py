import json
from functools import partial

import pytest

from atkd_jax.config import Config
from atkd_jax.sharding import make_meshes
from atkd_jax.training.run_batches import open_batches
from atkd_jax.training.run_models import prepare_models
from atkd_jax.training.start import prepare_start
from atkd_jax.training.teaching import open_teaching


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """A JSONL file of forty pairs of prompt and response."""
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    lines = [{"prompt": f"Add {a} to x.", "response": f"def add(x):\n    return x + {a}\n"} for a in range(40)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def prepared(tiny_teacher_directory, examples, tmp_path):
    """Makes a tiny run's models, its state before the first step, and (config, meshes) that they are of."""

    def make(**changes):
        tree = {
            "run_dir": tmp_path / "run",
            "teacher": {"model": str(tiny_teacher_directory)},
            "student": {"layers": 2},
            "data": {"source": str(examples), "sequence_length": 64},
            "training": {"steps": 2, "batch_size": 8},
        }
        config = Config.model_validate(tree | changes)
        meshes, ignore = make_meshes(), {"report": lambda _: None}
        teaching = open_teaching(config, meshes=meshes, **ignore)
        tokenizer = teaching.loaded.tokenizer
        opened = partial(open_batches, config, tokenizer, meshes.student)
        start = prepare_start(config, teaching.loaded, meshes=meshes, open_batches=opened, **ignore)
        models, state, _ = prepare_models(config, meshes.student, teaching, start, tokenizer, **ignore)
        return models, state, (config, meshes)

    return make
