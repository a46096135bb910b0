"""A teacher and a student that read the same text in tokens of their own, from the data to the exported directory."""

import io
import json

import numpy as np
import pytest
from flax import nnx
from rich.console import Console
from tiny_models import make_tokenizer

from atkd_jax.commands.main import main
from atkd_jax.config import Config
from atkd_jax.config_file import dump_config
from atkd_jax.errors import InputError
from atkd_jax.interop import export_model, load_tokenizer
from atkd_jax.models import Decoder, DecoderConfig
from atkd_jax.training.metrics import read_metrics
from atkd_jax.training.run import train


@pytest.fixture(scope="module")
def student_directory(tmp_path_factory):
    """259 ids, one for each byte: fewer than the teacher's, and more of them for a text; 5 columns of padding."""
    tokenizer = make_tokenizer(259)
    config = DecoderConfig(
        vocab_size=264, width=16, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=8, mlp_width=32
    )
    directory = tmp_path_factory.mktemp("tiny") / "student"
    export_model(
        Decoder(config, rngs=nnx.Rngs(params=1)),
        directory,
        tokenizer=tokenizer,
        dtype="float32",
        max_shard_bytes=10**9,
        model_card="A random student for tests.\n",
        generation_config={"eos_token_id": 2},
    )
    return directory


@pytest.fixture(scope="module")
def config(tmp_path_factory, tiny_teacher_directory, student_directory, examples):
    directory = tmp_path_factory.mktemp("two")

    def make(*, run_dir="run", **changes):
        tree = {
            "run_dir": directory / run_dir,
            "cache_dir": directory / "cache",
            "teacher": {"model": str(tiny_teacher_directory)},
            "student": {"init": "directory", "directory": str(student_directory)},
            "objective": {"name": "universal_logit", "universal_logit_weight": 0.5},
            "data": {"source": str(examples), "sequence_length": 192},
            "training": {"steps": 4, "batch_size": 8},
            "optimizer": {"learning_rate": 1e-2, "warmup_steps": 0, "eps": 1e-2},
            "evaluation": {"split": "train", "batch_size": 4, "samples": 1, "sample_tokens": 4},
        }
        return Config.model_validate(tree | changes)

    return make


def run(config):
    out = io.StringIO()
    train(config, console=Console(file=out, width=250))
    return read_metrics(config.run_dir), out.getvalue()


@pytest.fixture(scope="module")
def finished(config):
    """A run's config, its metrics and what it said."""
    return config(), *run(config())


def test_a_run_learns_and_its_loss_is_the_two_terms(finished):
    _, lines, out = finished
    for line in lines:
        np.testing.assert_allclose(line["loss"], line["cross_entropy"] + 0.5 * line["universal_logit"], rtol=1e-5)
        assert 0.2 < line["paired_share"] < 1  # the student has more tokens, so that some have no partner
    for name in ("cross_entropy", "universal_logit"):
        assert lines[-1][name] < lines[0][name]
    assert "padding and left out: 5 of the student's." in out


def test_neither_mesh_nor_micro_batches_change_a_number(finished, config):
    training = {"steps": 4, "batch_size": 8, "microbatches": 2, "chunk_tokens": 50}
    other = run(config(run_dir="other", mesh={"fsdp": 2, "tensor": 2}, training=training))[0]
    for name in ("loss", "universal_logit", "cross_entropy", "gradient_norm", "paired_share"):
        ours, theirs = ([line[name] for line in lines] for lines in (finished[1], other))
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, err_msg=name)


def test_any_other_objective_refuses_two_tokenizers(config):
    with pytest.raises(InputError, match=r"theirs differ in the vocabulary: .*, or objective\.name=universal_logit"):
        run(config(run_dir="refused", objective={"name": "forward_kl"}))


def test_verbs_read_each_model_in_its_own_tokens(finished, tmp_path, capsys, student_directory):
    settings = finished[0]
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(settings))
    assert main(["export", "--config", str(path)]) == 0
    own = load_tokenizer(settings.run_dir / "student")
    assert own.get_vocab() == load_tokenizer(student_directory).get_vocab()
    assert json.loads((settings.run_dir / "student" / "generation_config.json").read_text())["eos_token_id"] == 2
    assert main(["evaluate", "--config", str(path)]) == 2
    assert "no divergence exists between models with tokens of their own" in capsys.readouterr().err
    assert main(["generate", "--config", str(path), "--prompt", "Add 1", "--max_new_tokens", "3"]) == 0


@pytest.mark.slow
def test_a_stored_teacher_teaches_in_its_own_tokens(config):
    pytest.importorskip("qwix")
    teacher = {"model": config().teacher.model, "quantize": "int8"}
    settings = config(run_dir="stored", teacher=teacher, training={"steps": 1, "batch_size": 8})
    _, out = run(settings)
    assert "The teacher is stored in int8" in out
    facts = json.loads((settings.run_dir / "teacher_quantization.json").read_text())
    assert 0 < facts["forward_kl"] < 0.05
