import io
import json

import jax
import pytest
from flax import nnx
from rich.console import Console

from atkd_jax.commands import train
from atkd_jax.commands.dry_run_labelled import labelled_models
from atkd_jax.commands.verbs import TrainOptions
from atkd_jax.config import Config
from atkd_jax.errors import InputError
from atkd_jax.interop import load_model
from atkd_jax.models import Pruning, prune_model


def counts(config):
    models = labelled_models(config, console=Console(file=io.StringIO()))
    return {name: sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model))) for name, model in models.items()}


@pytest.fixture
def scorers(tmp_path, tiny_teacher_directory):
    def make(**own):
        lines = [{"response": f"answer {score}", "score": score} for score in (0, 1, 2) * 4]
        (tmp_path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        answers = {"source": str(tmp_path / "answers.jsonl"), "buckets": 64, "width": 8}
        tree = {"run_dir": tmp_path / "run", "teacher": {"model": str(tiny_teacher_directory)}}
        return Config.model_validate(tree | {"answers": answers | own})

    return make


def test_scorers_are_counted_with_the_teacher_that_is_fine_tuned(scorers, tiny_teacher_directory):
    teacher = load_model(tiny_teacher_directory)
    kept = nnx.state(prune_model(teacher, Pruning((0, 1))))
    head = 3 * (teacher.config.width + 1)
    student = 64 * 8 + 3 * 8 * 8 + 8 + 3 * (8 + 1)
    found = counts(scorers(teacher_layers=2))
    assert found["teacher"] == sum(leaf.size for leaf in jax.tree.leaves(kept)) + head
    assert found["student"] == found["student without KD"] == student
    assert list(counts(scorers(teacher_weight=0.0))) == ["student"]
    with pytest.raises(InputError, match=r"answers.teacher_layers=99 must be at most the 4 layers of"):
        counts(scorers(teacher_layers=99))


def test_images_have_no_teacher(tmp_path, capsys):
    config = Config.model_validate({"images": {"source": "digits"}, "run_dir": tmp_path / "run"})
    train.run(TrainOptions(settings=config, dry_run=True))
    text = capsys.readouterr().out
    assert "autoencoder" in text
    assert "teacher" not in text.partition("mesh: data 8")[2]
    assert "Nothing was started." in text
    assert not config.run_dir.exists()
