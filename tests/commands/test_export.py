import json

import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from atkd_jax.commands.export import generation_settings, student_card
from atkd_jax.commands.main import main
from atkd_jax.commands.run_directory import write_json
from atkd_jax.commands.student import read_trained_student
from atkd_jax.config import Config
from atkd_jax.interop import load_model, load_tokenizer


def test_the_exported_student_is_the_checkpoints(trained, trained_words, tiny_teacher_directory, capsys):
    assert main(["export", *trained_words]) == 0
    directory = trained.run_dir / "student"
    assert capsys.readouterr().out.splitlines()[-1] == str(directory)
    tokens = jnp.asarray([[5, 6, 7, 8]], jnp.int32)
    expected, _ = read_trained_student(trained, teacher_directory=tiny_teacher_directory)
    np.testing.assert_allclose(load_model(directory)(tokens), expected(tokens), rtol=1e-6)
    assert len(load_tokenizer(directory)) == len(load_tokenizer(tiny_teacher_directory))


def test_a_run_without_a_checkpoint_exports_nothing(untrained, untrained_words, capsys):
    assert main(["export", *untrained_words]) == 2
    assert "holds no checkpoint" in capsys.readouterr().err
    assert not untrained.run_dir.exists()


def test_the_card_tells_the_runs_facts(tmp_path):
    config = Config.model_validate({"run_dir": tmp_path, "student": {"layers": 8}})
    card = student_card(config, step=60)
    header = yaml.safe_load(card.split("---")[1])
    assert header["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert header["license"] == "apache-2.0"
    assert "| optimizer steps | 60 |" in card
    assert "8, evenly spaced" in card
    assert "Evaluation" not in card


def test_the_card_shows_the_checkpoints_own_evaluation(tmp_path):
    config = Config.model_validate({"run_dir": tmp_path})
    models = {"teacher": {"perplexity": 18.0, "forward_kl": 0.0}, "student after": {"perplexity": None}}
    write_json(tmp_path / "evaluation.json", {"checkpoint_step": 60, "models": models})
    assert "| teacher | 18 |" in student_card(config, step=60)
    assert "Evaluation" not in student_card(config, step=80)


@pytest.mark.parametrize(
    ("student", "words"),
    [
        ({"keep_layers": [0, 5]}, "layers 0, 5"),
        ({"init": "scratch", "size": "tiny"}, "random weights, size tiny"),
        ({"init": "directory", "directory": "/models/small"}, "small"),
    ],
)
def test_the_card_tells_where_the_student_began(student, words, tmp_path):
    config = Config.model_validate({"run_dir": tmp_path, "student": student})
    (line,) = [line for line in student_card(config, step=1).splitlines() if "student's start" in line]
    assert words in line


def test_a_local_teacher_is_named_without_its_path(tmp_path):
    (tmp_path / "mine").mkdir()
    config = Config.model_validate({"run_dir": tmp_path / "run", "teacher": {"model": str(tmp_path / "mine")}})
    card = student_card(config, step=1)
    assert "a student of mine" in card
    assert str(tmp_path) not in card
    assert "base_model" not in card


def test_the_teachers_way_of_sampling_is_kept(tmp_path):
    assert generation_settings(tmp_path) == {}
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": 2, "temperature": 0.2, "transformers_version": "4.1"}))
    assert generation_settings(tmp_path) == {"eos_token_id": 2, "temperature": 0.2}
