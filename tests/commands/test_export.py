import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from flax import nnx
from rich.console import Console

from atkd_jax.commands.export import generation_settings, student_card
from atkd_jax.commands.main import main
from atkd_jax.commands.run_directory import write_json
from atkd_jax.commands.student import read_trained_student
from atkd_jax.config import Config
from atkd_jax.interop import load_model, load_tokenizer
from atkd_jax.interop.gguf_conversion import convert_gguf
from atkd_jax.training.run import train

from .conftest import tiny_config, written

ROOT = Path(__file__).parent.parent.parent


def test_the_exported_student_is_the_checkpoints(trained, trained_words, tiny_teacher_directory, capsys):
    assert main(["export", *trained_words]) == 0
    directory = trained.run_dir / "student"
    assert capsys.readouterr().out.splitlines()[-1] == str(directory)
    tokens = jnp.asarray([[5, 6, 7, 8]], jnp.int32)
    expected, _ = read_trained_student(trained, teacher_directory=tiny_teacher_directory)
    np.testing.assert_allclose(load_model(directory)(tokens), expected(tokens), rtol=1e-6)
    assert len(load_tokenizer(directory)) == len(load_tokenizer(tiny_teacher_directory))


def test_a_checkpoint_is_chosen_by_its_step_and_verified(trained, trained_words, capsys):
    assert main(["export", "--step", "3", "--verify", *trained_words]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == str(trained.run_dir / "student")
    assert "64 of 64 greedy tokens are the same" in out[-2]
    assert main(["export", "--step", "2", *trained_words]) == 2
    assert "checkpoints has no checkpoint of step 2, but of 3" in capsys.readouterr().err


def test_without_torch_nothing_is_written(trained, trained_words, capsys, monkeypatch):
    monkeypatch.setattr("atkd_jax.commands.verify_export.find_spec", lambda name: None)
    assert main(["export", "--verify", *trained_words]) == 2
    assert "torch is not installed; install it, or leave --verify out" in capsys.readouterr().err


def test_a_gguf_file_holds_the_checkpoints_student(trained, trained_words, tmp_path, capsys):
    file = tmp_path / "named.gguf"
    assert main(["export", "--format", "gguf", "--out", str(file), *trained_words]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(file)
    convert_gguf(file, tmp_path / "model", model_card="")
    tokens = jnp.asarray([[5, 6, 7, 8]], jnp.int32)
    expected, _ = read_trained_student(trained, teacher_directory=Path(trained.teacher.model))
    rounded = jax.tree.map(lambda leaf: leaf.astype(jnp.float16).astype(jnp.float32), nnx.state(expected))
    nnx.update(expected, rounded)
    np.testing.assert_allclose(load_model(tmp_path / "model")(tokens), expected(tokens), atol=0.1, rtol=1e-2)
    assert main(["export", "--format", "gguf", "--verify", *trained_words]) == 2
    assert "reads them back by itself, so it goes without --verify" in capsys.readouterr().err


@pytest.fixture(scope="module")
def adapted(tiny_teacher_directory, tmp_path_factory):
    """A run whose student is adapters beside two of the teacher's layers, after one real step."""
    student = {"layers": 2, "lora": {"rank": 2, "targets": ["query", "down"]}}
    training = {"steps": 1, "batch_size": 8}
    optimizer = {"learning_rate": 0.1, "warmup_steps": 0}
    changes = {"student": student, "training": training, "optimizer": optimizer}
    config = tiny_config(tiny_teacher_directory, tmp_path_factory.mktemp("adapted"), **changes)
    train(config, console=Console(quiet=True))
    return config


@pytest.mark.filterwarnings("ignore")  # peft's and torch's own
def test_adapters_go_out_merged_or_as_they_are(adapted, tmp_path, capsys):
    words = written(adapted, tmp_path)
    tokens = jnp.asarray([[5, 6, 7, 8]], jnp.int32)
    student, step = read_trained_student(adapted, teacher_directory=Path(adapted.teacher.model))
    assert step == 1
    assert main(["export", "--verify", *words]) == 0
    merged = load_model(adapted.run_dir / "student")
    np.testing.assert_allclose(merged(tokens), student(tokens), rtol=1e-3, atol=1e-2)
    pytest.importorskip("peft")
    assert main(["export", "--verify", "--export.lora", "adapter", *words]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == str(adapted.run_dir / "adapter")
    assert "64 of 64 greedy tokens are the same" in out[-2]
    base = load_model(adapted.run_dir / "adapter_base")
    assert base.config == merged.config
    assert float(jnp.abs(base(tokens) - merged(tokens)).max()) > 1e-2


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
    (tmp_path / "file.gguf").touch()
    config = Config.model_validate({"run_dir": tmp_path / "run", "teacher": {"model": str(tmp_path / "file.gguf")}})
    card = student_card(config, step=1)
    assert "a student of file.gguf" in card
    assert "base_model" not in card
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


@pytest.mark.slow
def test_one_device_exports_what_eight_have_trained(tiny_teacher_directory, tmp_path):
    """Without the accelerators: a process with one CPU device reads a checkpoint that was split over eight."""
    changes = {"mesh": {"fsdp": 4, "tensor": 2}, "training": {"steps": 1, "batch_size": 8}}
    config = tiny_config(tiny_teacher_directory, tmp_path, **changes)
    state = train(config, console=Console(quiet=True)).state
    assert len(jax.tree.leaves(state.params)[0].sharding.device_set) == 8
    command = [sys.executable, str(ROOT / "launch.py"), "export", *written(config, tmp_path)]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    exported = load_model(config.run_dir / "student")
    for ours, trained in zip(jax.tree.leaves(nnx.state(exported)), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_array_equal(ours, np.asarray(trained))
