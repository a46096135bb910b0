import functools
import io
import json

import jax
import numpy as np
import pytest
from rich.console import Console

from atkd_jax.config import Config
from atkd_jax.errors import InputError
from atkd_jax.training.calibration import read_pruning
from atkd_jax.training.checkpoints import Checkpoints
from atkd_jax.training.metrics import read_metrics
from atkd_jax.training.run import train

ADAPTERS = {"layers": 2, "lora": {"rank": 3, "alpha": 6.0, "targets": ["query", "value", "down"]}}
PRUNED = {"layers": 2, "layer_choice": "block_influence", "mlp_width": 24, "kv_heads": 1}


@pytest.fixture(scope="module")
def config_in(tiny_teacher_directory, examples):
    def make(directory, *, teacher=None, **changes):
        tree = {
            "run_dir": directory / "run",
            "teacher": {"model": str(tiny_teacher_directory), **(teacher or {})},
            "student": {"layers": 2},
            "data": {"source": str(examples), "sequence_length": 64},
            "training": {"steps": 4, "batch_size": 8},
            "optimizer": {"learning_rate": 1e-2, "warmup_steps": 0},
            "checkpoint": {"every_steps": 2},
        }
        return Config.model_validate(tree | changes)

    return make


@pytest.fixture
def config(config_in, tmp_path):
    return functools.partial(config_in, tmp_path)


def run(config, console=None):
    return train(config, console=console or Console(file=io.StringIO(), width=250))


def assert_same_bits(one, other):
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def go_back_to(step, config):
    """Makes the run what it was after a step: later checkpoints are gone."""
    with Checkpoints(config.run_dir / "checkpoints", keep=2) as checkpoints:
        assert step in checkpoints.steps()
    for path in (config.run_dir / "checkpoints").iterdir():
        if path.name.isdecimal() and int(path.name) > step:
            for file in sorted(path.rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
            path.rmdir()


@pytest.mark.parametrize("student", [ADAPTERS, PRUNED], ids=["adapters", "pruned by data"])
def test_a_run_that_goes_on_ends_as_if_it_had_never_stopped(config, student):
    settings = config(student=student)
    whole = run(settings)
    go_back_to(2, settings)
    out = io.StringIO()
    again = run(settings, Console(file=out, width=250))
    assert "Going on from step 2" in out.getvalue()
    assert "chosen on" not in out.getvalue()  # what was measured at the start is read, not measured anew
    assert_same_bits(whole.state, again.state)
    losses = [line["loss"] for line in read_metrics(settings.run_dir)]
    assert len(losses) == 4
    assert losses[-1] < losses[0]


def test_only_adapters_are_trained_and_saved(config):
    state = run(config(student=ADAPTERS)).state
    shapes = {leaf.shape for leaf in jax.tree.leaves(state.params)}
    assert shapes == {(2, 32, 3), (2, 3, 4, 8), (2, 3, 2, 8), (2, 64, 3), (2, 3, 32)}
    held = sum(leaf.size for leaf in jax.tree.leaves((state.params, state.optimizer_state)))
    assert held < 3 * 2 * (3 * (32 + 32 + 32 + 16 + 64 + 32)) + 10  # the weights, two moments, counters
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(state.params))


PRUNED_WITH_ADAPTERS = {
    "student": PRUNED | {"lora": ADAPTERS["lora"]},
    "optimizer": {"eps": 1e-2, "warmup_steps": 0},
}


@pytest.fixture(scope="module")
def plain(config_in, tmp_path_factory):
    settings = config_in(tmp_path_factory.mktemp("plain"), **PRUNED_WITH_ADAPTERS)
    run(settings)
    return settings


@pytest.mark.parametrize(
    "mesh",
    [
        pytest.param({"fsdp": 2, "tensor": 2}, marks=pytest.mark.slow),
        {"fsdp": 4, "teacher_tensor": 2, "teacher_fsdp": 1},
    ],
)
def test_every_mesh_gives_one_start_and_one_run(config, plain, mesh):
    other = config(mesh=mesh, **PRUNED_WITH_ADAPTERS)
    run(other)
    assert read_pruning(plain.run_dir) == read_pruning(other.run_dir)
    losses = [[line["loss"] for line in read_metrics(each.run_dir)] for each in (plain, other)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.fixture(scope="module")
def loss_of_floats(config_in, tmp_path_factory):
    exact = config_in(tmp_path_factory.mktemp("exact"))
    run(exact)
    return read_metrics(exact.run_dir)[0]["loss"]


@pytest.mark.parametrize(
    ("bits", "mesh"), [pytest.param("int8", {}, marks=pytest.mark.slow), ("int4", {"fsdp": 2, "tensor": 2})]
)
def test_a_stored_teacher_teaches_and_says_how_far_it_moved(config, loss_of_floats, bits, mesh):
    pytest.importorskip("qwix")
    settings = config(teacher={"quantize": bits}, mesh=mesh)
    out = io.StringIO()
    run(settings, Console(file=out, width=250))
    facts = json.loads((settings.run_dir / "teacher_quantization.json").read_text())
    assert f"The teacher is stored in {bits}:" in out.getvalue()
    assert f"is {facts['forward_kl']:.4f} nats per token" in out.getvalue()
    assert 0 < facts["forward_kl"] < (0.05 if bits == "int8" else 3.0)  # a random teacher of few weights moves far
    assert facts["bytes"] < facts["float_bytes"] / 3
    stored = read_metrics(settings.run_dir)[0]["loss"]
    np.testing.assert_allclose(stored, loss_of_floats, rtol=0.02 if bits == "int8" else 0.5)
    assert stored != loss_of_floats


def test_a_run_that_lost_what_was_chosen_says_so(config):
    settings = config(student=PRUNED)
    run(settings)
    (settings.run_dir / "pruning.json").unlink()
    with pytest.raises(InputError, match=r"pruning\.json must say which parts of the teacher the run's student has"):
        run(settings)
