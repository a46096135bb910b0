"""A teacher and a student that read the same text in tokens of their own, from the data to the exported directory."""

import io
import json

import numpy as np
import pytest
import torch
from flax import nnx
from rich.console import Console
from tiny_models import make_tokenizer
from transformers import AutoModelForCausalLM

from atkd_jax.commands.main import main
from atkd_jax.config import Config
from atkd_jax.config_file import dump_config
from atkd_jax.data import Template
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


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    """The words that name the run's config, once its student has been exported."""
    path = tmp_path_factory.mktemp("exported") / "config.yaml"
    path.write_text(dump_config(finished[0]))
    assert main(["export", "--config", str(path)]) == 0
    return ["--config", str(path)]


def test_the_student_leaves_with_its_own_tokenizer(finished, exported, student_directory):
    directory = finished[0].run_dir / "student"
    assert load_tokenizer(directory).get_vocab() == load_tokenizer(student_directory).get_vocab()
    assert json.loads((directory / "generation_config.json").read_text())["eos_token_id"] == 2
    assert main(["generate", *exported, "--prompt", "Add 1", "--max_new_tokens", "3"]) == 0


def nats_and_tokens(directory, examples):
    """-log p of the responses and how many tokens they are, by transformers' PyTorch model, one example at a time."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64)
    form = Template("chat", load_tokenizer(directory))
    nats, tokens = 0.0, 0
    for example in examples:
        prompt, response = form.prompt_ids(example["prompt"]), form.response_ids(example["response"])
        ids = torch.tensor([[*prompt, *response]])
        with torch.no_grad():
            log_probs = model(ids).logits[0, :-1, : len(load_tokenizer(directory))].log_softmax(-1)
        found = log_probs.gather(-1, ids[0, 1:, None])[len(prompt) - 1 :]
        nats, tokens = nats - float(found.sum()), tokens + len(found)
    return nats, tokens


def test_evaluate_measures_each_in_its_own_tokens_and_all_per_byte(
    finished, exported, examples, capsys, tiny_teacher_directory, student_directory
):
    run_dir = finished[0].run_dir
    # At this length the longest ones in the student's tokens do not fit, and all do in the teacher's.
    data = [json.loads(line) for line in examples.read_text().splitlines()]
    reader = Template("chat", load_tokenizer(student_directory))
    lengths = [len(reader.prompt_ids(each["prompt"]) + reader.response_ids(each["response"])) for each in data]
    whole = [each for each, length in zip(data, lengths, strict=True) if length < max(lengths)]
    words = ["--data.sequence_length", str(max(lengths) - 1), "--evaluation.rouge_examples", "2"]
    assert main(["evaluate", *exported, *words]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "KL to the teacher, top-1 agreement and deciles of the teacher's uncertainty do not exist" in out
    assert "forward KL" not in out
    kept = json.loads((run_dir / "evaluation.json").read_text())
    assert (kept["examples"], kept["dropped_examples"]) == (len(whole), len(data) - len(whole))
    assert kept["text_bytes"] == sum(len(each["response"].encode()) for each in whole)
    assert kept["unc_deciles"] == []
    directories = {"teacher": tiny_teacher_directory, "student before": student_directory}
    for name, directory in (directories | {"student after": run_dir / "student"}).items():
        own = kept["models"][name]
        nats, tokens = nats_and_tokens(directory, whole)
        assert own["tokens"] == tokens
        np.testing.assert_allclose(own["cross_entropy"], nats / tokens, rtol=1e-5)
        np.testing.assert_allclose(own["bits_per_byte"], nats / np.log(2) / kept["text_bytes"], rtol=1e-5)
        assert not {"forward_kl", "reverse_kl", "top1_agreement"} & own.keys()
        assert 0 <= own["rouge_l"] <= 100
    assert list(kept["samples"][0]["answers"]) == list(kept["models"])


@pytest.mark.slow
def test_a_stored_teacher_teaches_in_its_own_tokens(config):
    pytest.importorskip("qwix")
    teacher = {"model": config().teacher.model, "quantize": "int8"}
    settings = config(run_dir="stored", teacher=teacher, training={"steps": 1, "batch_size": 8})
    _, out = run(settings)
    assert "The teacher is stored in int8" in out
    facts = json.loads((settings.run_dir / "teacher_quantization.json").read_text())
    assert 0 < facts["forward_kl"] < 0.05
