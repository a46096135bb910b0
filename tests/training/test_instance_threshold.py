import io
import json
import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from atkd_jax import losses
from atkd_jax.config import Config
from atkd_jax.data import evaluation_batches, open_source
from atkd_jax.errors import InputError
from atkd_jax.objectives import next_token_targets
from atkd_jax.sharding import make_meshes
from atkd_jax.teachers import load_teacher
from atkd_jax.training.checkpoints import Checkpoints, abstract_state_like
from atkd_jax.training.instance_threshold import (
    THRESHOLD_NAME,
    Threshold,
    measured_threshold,
    read_threshold,
    with_threshold,
)
from atkd_jax.training.metrics import read_metrics
from atkd_jax.training.placement import placing_on
from atkd_jax.training.run import train

STEPS = 3


@pytest.fixture(scope="module")
def config(tmp_path_factory, tiny_teacher_directory, examples):
    def make(weighting=None, **changes):
        tree = {
            "run_dir": tmp_path_factory.mktemp("run"),
            "teacher": {"model": str(tiny_teacher_directory)},
            "student": {"layers": 1},
            "data": {"source": str(examples), "sequence_length": 64},
            "objective": {"instance_weighting": {"k_start": 3.0, "k_end": -3.0} | (weighting or {})},
            "training": {"steps": STEPS, "batch_size": 8},
            "optimizer": {"learning_rate": 3e-3, "warmup_steps": 1, "eps": 1e-2},
        }
        return Config.model_validate(tree | changes)

    return make


@pytest.fixture(scope="module")
def whole(config):
    """A run in one part: its directory, its last state, and what it said."""
    settings, out = config(), io.StringIO()
    outcome = train(settings, console=Console(file=out, width=300))
    return settings.run_dir, outcome.state, out.getvalue()


def measured(config, report=lambda _: None):
    meshes = make_meshes(**config.mesh.model_dump())
    teacher = load_teacher(config.teacher, cache_dir=config.cache_dir, place=placing_on(meshes.teacher))
    return teacher, measured_threshold(config, teacher, meshes=meshes, report=report)


def test_the_threshold_is_the_mean_over_examples_of_the_teachers_loss(config):
    """One example a row here, whole logits, and means in float64."""
    settings, told = config(), []
    teacher, found = measured(settings, told.append)
    examples = open_source(settings.data.source, split="train", cache_dir=settings.cache_dir)
    options = {"template": "chat", "sequence_length": 64, "batch_size": 8, "overlong": "truncate"}
    graphdef, params = nnx.split(teacher.model)
    logits_of = jax.jit(lambda params, inputs: nnx.merge(graphdef, params)(**inputs))
    means = []
    for batch in evaluation_batches(examples, teacher.tokenizer, packing=False, **options):
        logits = logits_of(params, {name: batch[name] for name in ("tokens", "positions", "segment_ids")})
        targets, mask = next_token_targets(
            tokens=batch["tokens"], segment_ids=batch["segment_ids"], loss_mask=batch["loss_mask"]
        )
        log_probs = np.asarray(losses.target_log_prob(logits=logits, targets=targets), np.float64)
        means += [-row[own].mean() for row, own in zip(log_probs, np.asarray(mask), strict=True) if own.any()]
    np.testing.assert_allclose(found.threshold, np.mean(means), rtol=1e-5)
    assert found.examples == len(examples) == 40
    assert told == ["batches of the teacher's mean loss: 5 of 5", found.sentence()]


def test_fewer_examples_may_be_measured(config):
    assert measured(config({"threshold_examples": 5}))[1].examples == 5


def test_a_run_in_two_parts_has_the_threshold_that_it_began_with(config, whole):
    assert "the threshold of objective.instance_weighting" in whole[2]
    parts = config(checkpoint={"every_steps": 2})
    train(parts, console=Console(file=io.StringIO()))
    shutil.rmtree(parts.run_dir / "checkpoints" / str(STEPS))
    again = io.StringIO()
    second = train(parts, console=Console(file=again, width=300))
    assert "Going on from step 2" in again.getvalue()
    assert "mean loss" not in again.getvalue()
    for ours, theirs in zip(jax.tree.leaves(whole[1]), jax.tree.leaves(second.state), strict=True):
        np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))
    lines = read_metrics(parts.run_dir)
    assert [line["instance_steepness"] for line in lines] == pytest.approx([3.0, 0.0, -3.0])
    assert all(0 <= line["instance_weight_above_half"] <= 1 and 0 < line["instance_weight_mean"] < 1 for line in lines)
    with Checkpoints(parts.run_dir / "checkpoints", keep=2) as checkpoints:
        saved = checkpoints.restore(abstract_state_like(second.state)).config
    assert saved["objective"]["instance_weighting"]["threshold"] == read_threshold(parts.run_dir).threshold
    (parts.run_dir / THRESHOLD_NAME).unlink()
    with pytest.raises(InputError, match=r"must hold the threshold that the run was started with"):
        train(parts, console=Console(file=io.StringIO()))


@pytest.mark.slow
def test_a_mesh_and_micro_batches_give_the_same_losses(config, whole):
    other = config(mesh={"fsdp": 2, "tensor": 4}, training={"steps": STEPS, "batch_size": 8, "microbatches": 2})
    train(other, console=Console(file=io.StringIO()))
    for metric in ("loss", "instance_weight_mean", "teacher_task_loss"):
        one, two = ([line[metric] for line in read_metrics(run)] for run in (whole[0], other.run_dir))
        np.testing.assert_allclose(one, two, rtol=2e-5, err_msg=metric)


def test_what_was_measured_stands_in_the_config_and_the_run_directory(config, tmp_path):
    found = Threshold(1.23456789012345678, 7)
    found.write(tmp_path)
    assert read_threshold(tmp_path) == found
    assert json.loads((tmp_path / THRESHOLD_NAME).read_text())["examples"] == 7
    assert with_threshold(config(), found).objective.instance_weighting.threshold == found.threshold
