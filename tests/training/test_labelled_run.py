import io
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from atkd_jax import losses
from atkd_jax.config import Config
from atkd_jax.errors import InputError
from atkd_jax.models import Decoder, DecoderConfig, SequenceClassifier
from atkd_jax.sharding import make_mesh
from atkd_jax.training.labelled_run import labelled_mesh, train_labelled
from atkd_jax.training.metrics import read_metrics


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 3)).astype(np.float32)
    return {"x": x, "y": (x @ np.array([1.0, -2.0, 0.5], np.float32))}


def trained(arrays, run_dir, *, steps=6, seed=0):
    tree = {"run_dir": run_dir, "seed": seed, "checkpoint": {"every_steps": 4}}
    tree |= {"training": {"steps": steps, "batch_size": 8}, "optimizer": {"learning_rate": 0.3, "warmup_steps": 0}}
    model, out = nnx.Linear(3, 1, rngs=nnx.Rngs(params=0)), io.StringIO()

    def loss_of(model, batch):
        error = jnp.square(model(batch["x"])[:, 0] - batch["y"])
        return error, {"error": error}

    console = Console(file=out, width=200)
    config = Config.model_validate(tree)
    outcome = train_labelled(model, arrays, loss_of, config=config, mesh=labelled_mesh(config), console=console)
    return outcome.state, model, out.getvalue()


def test_a_run_in_two_parts_is_the_run_in_one(arrays, tmp_path):
    whole, model, _ = trained(arrays, tmp_path / "whole")
    trained(arrays, tmp_path / "parts")
    shutil.rmtree(tmp_path / "parts" / "checkpoints" / "6")
    again, other, said = trained(arrays, tmp_path / "parts")
    assert "Going on from step 4" in said
    for ours, theirs in zip(jax.tree.leaves((whole, model)), jax.tree.leaves((again, other)), strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    lines = read_metrics(tmp_path / "parts")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["loss"] == pytest.approx(lines[-1]["error"])
    assert lines[-1]["data/epoch"] == pytest.approx(6 * 8 / 20)


def test_another_config_in_the_same_directory_is_refused(arrays, tmp_path):
    trained(arrays, tmp_path, steps=1)
    with pytest.raises(InputError, match="seed=0 then and 3 now"):
        trained(arrays, tmp_path, steps=1, seed=3)


SHAPE = DecoderConfig(vocab_size=31, width=16, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=4, mlp_width=16)


def classified(run_dir, mesh, *, microbatches=1):
    """Fine-tunes a decoder of random weights on random scores: its metrics and its last weights."""
    rng = np.random.default_rng(1)
    arrays = {"tokens": rng.integers(0, 31, (40, 6)).astype(np.int32), "lengths": rng.integers(1, 7, 40, np.int32)}
    arrays["scores"] = rng.integers(0, 3, 40).astype(np.int32)
    tree = {"run_dir": run_dir, "training": {"steps": 3, "batch_size": 16, "microbatches": microbatches}}
    # A large epsilon keeps Adam from making whole steps out of the rounding of gradients that are nearly 0.
    tree |= {"optimizer": {"learning_rate": 0.1, "warmup_steps": 0, "eps": 1e-2}}
    model = SequenceClassifier(Decoder(SHAPE, rngs=nnx.Rngs(params=0)), 3, rngs=nnx.Rngs(params=1))

    def loss_of(model, batch):
        logits = model(batch["tokens"], batch["lengths"], mesh=mesh)
        loss = losses.cross_entropy(student_logits=logits, targets=batch["scores"])
        return loss, {"largest": jnp.max(logits, axis=-1)}

    config, console = Config.model_validate(tree), Console(file=io.StringIO())
    params = train_labelled(model, arrays, loss_of, config=config, mesh=mesh, console=console).state.params
    return read_metrics(run_dir), params


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return classified(tmp_path_factory.mktemp("alone"), make_mesh(devices=jax.devices()[:1]))


@pytest.mark.parametrize(
    ("axes", "microbatches"), [pytest.param({}, 1, marks=pytest.mark.slow), ({"fsdp": 2, "tensor": 2}, 2)]
)
def test_loss_and_gradient_are_those_of_one_device(alone, axes, microbatches, tmp_path):
    lines, params = classified(tmp_path, make_mesh(**axes), microbatches=microbatches)
    for ours, theirs in zip(lines, alone[0], strict=True):
        for name in ("loss", "gradient_norm", "largest"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5), name
    for ours, theirs in zip(jax.tree.leaves(params), jax.tree.leaves(alone[1]), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    up = params["decoder"]["layers"]["mlp"]["up"]["kernel"][...]
    sizes = [up.shape[0], up.shape[1] // axes.get("fsdp", 1), up.shape[2] // axes.get("tensor", 1)]
    assert [*up.addressable_shards[0].data.shape] == sizes


def test_rows_that_do_not_divide_over_devices_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"training.batch_size=16 must be a multiple of 32: 8 devices share the rows"):
        classified(tmp_path, make_mesh(), microbatches=4)


def test_a_mesh_that_splits_rows_is_refused():
    with pytest.raises(InputError, match=r"mesh.sequence=2 splits a row's tokens, but labelled examples stay whole"):
        labelled_mesh(Config.model_validate({"mesh": {"sequence": 2}}))


@pytest.mark.parametrize("name", ["validate_every_steps", "gradient_share_every_steps"])
def test_measurements_of_tokens_are_refused(name):
    with pytest.raises(InputError, match=rf"training.{name}=5 measures a language model's tokens.*leave it out"):
        labelled_mesh(Config.model_validate({"training": {name: 5}}))
