import functools
import io
import json
import os
import re
import signal
import threading
import time

import jax
import numpy as np
import pytest
from metric_lines import TIMES, without_times
from rich.console import Console

from atkd_jax.config import Config
from atkd_jax.errors import InputError
from atkd_jax.training.metrics import read_metrics
from atkd_jax.training.run import train


@pytest.fixture(scope="module")
def config_in(tiny_teacher_directory, examples):
    def make(directory, **changes):
        tree = {
            "run_dir": directory / "run",
            "teacher": {"model": str(tiny_teacher_directory)},
            "student": {"layers": 2},
            "data": {"source": str(examples), "sequence_length": 64},
            "training": {"steps": 6, "batch_size": 8},
            "optimizer": {"learning_rate": 3e-3, "warmup_steps": 1},
            "checkpoint": {"every_steps": 100},
        }
        for dotted, value in changes.items():
            *groups, name = dotted.split("__")
            branch = tree
            for group in groups:
                branch = branch.setdefault(group, {})
            branch[name] = value
        return Config.model_validate(tree)

    return make


@pytest.fixture
def config(config_in, tmp_path):
    return functools.partial(config_in, tmp_path)


def quiet():
    return Console(file=io.StringIO(), width=200)


def assert_same_bits(one, other):
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def test_a_run_in_two_parts_is_the_run_in_one(config, tmp_path):
    whole = train(config(run_dir=tmp_path / "whole"), console=quiet())
    # The schedule is that of six steps in both; the first part is ended by Ctrl-C, sent when three lines are there.
    metrics = tmp_path / "parts" / "metrics.jsonl"
    settings = config(run_dir=tmp_path / "parts", training__steps=6)

    def interrupt():
        while not metrics.exists() or metrics.read_text().count("\n") < 2:
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    first = train(settings, console=quiet())
    out = io.StringIO()
    second = train(settings, console=Console(file=out, width=200))
    if first.stopped_by is not None:
        assert 2 <= int(first.state.step) < 6
        assert f"Going on from step {int(first.state.step)}" in out.getvalue()
    assert_same_bits(whole.state, second.state)
    assert without_times(read_metrics(tmp_path / "whole")) == without_times(read_metrics(tmp_path / "parts"))


def test_the_gates_diagnostics_and_the_data_counts_are_in_the_metrics(config, tmp_path):
    out = io.StringIO()
    settings = {"training__steps": 2, "profile__start_step": 2, "profile__steps": 9}
    settings |= {"training__gradient_share_every_steps": 2}
    train(config(**settings), console=Console(file=out, width=200))
    assert re.search(r"MFU is the share of .* TFLOP/s: the fastest product of two float32 matrices", out.getvalue())
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
    first, last = read_metrics(tmp_path / "run")
    assert last["step"] == 2
    shares = {name: last.pop(name) for name in list(last) if name.startswith(("gradient_share/", "gradient_cosine/"))}
    norms = {name: last.pop(name) for name in list(last) if name.startswith("gradient_norm/")}
    assert not any(name.startswith("gradient_share/") for name in first)
    for part in ("target_kd", "diversity_kd", "easy", "hard"):  # All of the gradient that this very step took.
        whole = norms[f"gradient_norm/{part}"] * shares[f"gradient_cosine/{part}"] / shares[f"gradient_share/{part}"]
        assert whole == pytest.approx(last["gradient_norm"], rel=1e-4)
    expected = {
        "loss",
        "cross_entropy",
        "easy_share",
        "uncertainty_threshold",
        "uncertainty_easy",
        "uncertainty_hard",
        "target_kd_easy",
        "target_kd_hard",
        "diversity_kd_easy",
        "diversity_kd_hard",
        "gradient_norm",
        "skipped_steps",
        "counted_tokens",
        "learning_rate",
        "data/epoch",
        "data/fill",
        "data/truncated_examples",
        "data/dropped_examples",
        *TIMES,
    }
    assert expected <= set(last)
    assert all(value is not None for value in last.values())


# A large epsilon keeps Adam from making whole steps out of the rounding of gradients that are nearly 0.
LARGE_EPSILON = {"optimizer__eps": 1e-2}


def losses(config):
    train(config, console=quiet())
    return [line["loss"] for line in read_metrics(config.run_dir)]


@pytest.fixture(scope="module")
def plain_losses(config_in, tmp_path_factory):
    return losses(config_in(tmp_path_factory.mktemp("plain"), **LARGE_EPSILON))


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"mesh__fsdp": 2}, marks=pytest.mark.slow),
        {"mesh__fsdp": 2, "mesh__tensor": 2},
        {"training__remat": "full"},
    ],
)
def test_meshes_and_rematerialisation_give_the_same_losses(config, plain_losses, changes):
    np.testing.assert_allclose(losses(config(**LARGE_EPSILON, **changes)), plain_losses, rtol=1e-5)


def test_a_finished_run_is_left_alone_and_a_longer_one_goes_on(config, tmp_path):
    train(config(training__steps=2), console=quiet())
    out = io.StringIO()
    train(config(training__steps=2), console=Console(file=out, width=200))
    assert "has already taken its 2 steps" in out.getvalue()
    longer = train(config(training__steps=3), console=quiet())
    assert int(longer.state.step) == 3


def test_another_config_in_the_same_directory_is_refused(config):
    train(config(training__steps=1), console=quiet())
    with pytest.raises(InputError, match=r"objective.easy_weight=0.2 then and 0.7 now"):
        train(config(training__steps=1, objective__easy_weight=0.7), console=quiet())


def test_bfloat16_and_other_starts_train(config, tmp_path, tiny_teacher_directory):
    for number, changes in enumerate(
        (
            {"training__dtype": "bfloat16", "student": {"init": "directory", "directory": tiny_teacher_directory}},
            {"teacher__dtype": "bfloat16", "student": {"init": "scratch", "size": "0.3m"}},
        )
    ):
        run_dir = tmp_path / str(number)
        train(config(run_dir=run_dir, training__steps=3, **changes), console=quiet())
        assert np.isfinite([line["loss"] for line in read_metrics(run_dir)]).all()


def test_rows_that_do_not_divide_over_devices_and_parts_are_refused(config):
    with pytest.raises(InputError, match=r"training.batch_size=8 must be a multiple of 16: 8 devices share the rows"):
        train(config(training__microbatches=2), console=quiet())


def test_students_with_another_tokenizer_are_refused(config, tmp_path, tiny_teacher_directory):
    other = tmp_path / "other"
    other.mkdir()
    for path in tiny_teacher_directory.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = sorted(vocabulary, key=vocabulary.get)[40:42]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match="tokenizer"):
        train(config(student={"init": "directory", "directory": other}), console=quiet())


def test_soft_labels_of_tokens_teach_without_a_teachers_layers(config, tmp_path):
    objective = {"name": "forward_kl", "cross_entropy_weight": 0.5, "token_similarity": {"scale": 4.0, "delta": 0.1}}
    train(config(objective=objective, training__steps=4), console=quiet())
    lines = read_metrics(tmp_path / "run")
    assert lines[-1]["cross_entropy"] < lines[0]["cross_entropy"]
