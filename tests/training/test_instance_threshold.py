import io
import json
import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from atkd_jax import losses
from atkd_jax.commands.cache import make_cache
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
    cached_threshold,
    measured_threshold,
    read_threshold,
    with_threshold,
)
from atkd_jax.training.metrics import read_metrics
from atkd_jax.training.placement import placing_on
from atkd_jax.training.run import train
from atkd_jax.training.teaching import open_teaching

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
    teacher = load_teacher(config, place=placing_on(meshes.teacher))
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


@pytest.fixture(scope="module")
def from_cache(config, tmp_path_factory):
    """Makes a config of the same run with a cache for a teacher."""
    directory = tmp_path_factory.mktemp("cache") / "hidden"
    kept = {"cache": {"kind": "hidden", "hidden_type": "float32"}}
    make_cache(config(**kept), directory, console=Console(file=io.StringIO()))

    def make(weighting=None):
        settings = config(weighting)
        return settings.model_copy(update={"teacher": settings.teacher.model_copy(update={"cache": directory})})

    return make


@pytest.mark.parametrize("limit", [None, 5])
def test_a_cache_knows_the_threshold_without_the_teacher(config, from_cache, limit):
    weighting = {"threshold_examples": limit}
    meshes, told = make_meshes(), []
    opened = open_teaching(from_cache(weighting), meshes=meshes, report=told.append).cached
    found = cached_threshold(from_cache(weighting), opened.open_signals(), report=told.append)
    live = measured(config(weighting))[1]
    assert found.examples == live.examples
    assert found.threshold == pytest.approx(live.threshold, rel=1e-6)
    assert told[-1] == found.sentence()


class KnownSignals:
    """Stands for a cache of these log-probabilities by example."""

    def __init__(self, *examples):
        self.of_examples, self.examples = examples, len(examples)

    def target_log_probs(self, number):
        return np.array(self.of_examples[number], np.float32)

    def close(self):
        pass


def test_an_example_that_was_dropped_does_not_count(config):
    found = cached_threshold(config(), KnownSignals([-1.0, -3.0], [], [-5.0]), report=lambda _: None)
    assert found == Threshold(3.5, 2)
    with pytest.raises(InputError, match=r"threshold_examples=1 must reach an example with a target"):
        cached_threshold(config({"threshold_examples": 1}), KnownSignals([], [-1.0]), report=lambda _: None)


def test_a_target_without_probability_is_refused(config):
    with pytest.raises(InputError, match=r"gives some of the data's tokens no probability at all"):
        cached_threshold(config(), KnownSignals([-1.0], [-np.inf]), report=lambda _: None)


def test_a_run_from_a_cache_weighs_examples_as_with_the_live_teacher(config, from_cache, whole, monkeypatch):
    monkeypatch.setattr("atkd_jax.training.start.measured_threshold", None)
    settings = from_cache()
    state = train(settings, console=Console(file=io.StringIO())).state
    live = read_metrics(whole[0])
    for ours, theirs in zip(read_metrics(settings.run_dir), live, strict=True):
        for name in ("loss", "gradient_norm", "instance_weight_mean", "teacher_task_loss"):
            assert ours[name] == pytest.approx(theirs[name], rel=2e-5), name
    for ours, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(whole[1].params), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-6)


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
