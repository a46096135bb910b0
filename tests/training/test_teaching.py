"""Runs from a cache beside the same runs with the live teacher."""

import io
import shutil

import jax
import numpy as np
import pytest
from rich.console import Console

from atkd_jax.commands.cache import make_cache
from atkd_jax.config import Config
from atkd_jax.errors import InputError
from atkd_jax.training.metrics import read_metrics
from atkd_jax.training.run import train
from atkd_jax.training.throughput import step_costs


def quiet():
    return Console(file=io.StringIO(), width=200)


@pytest.fixture(scope="module")
def make(tiny_teacher_directory, examples):
    """Makes a config of a short run."""

    def config(run_dir, directory=None, **changes):
        tree = {
            "run_dir": run_dir,
            "teacher": {"model": str(tiny_teacher_directory), "cache": directory},
            "student": {"layers": 2},
            "data": {"source": str(examples), "sequence_length": 64},
            "training": {"steps": 3, "batch_size": 8},
            # A large epsilon keeps Adam from making whole steps out of the rounding of gradients that are nearly 0.
            "optimizer": {"learning_rate": 3e-3, "warmup_steps": 1, "eps": 1e-2},
        }
        for name, value in changes.items():
            tree[name] = tree.get(name, {}) | value
        return Config.model_validate(tree)

    return config


@pytest.fixture(scope="module")
def caches(make, tmp_path_factory):
    """Directories by what they keep."""
    root, found = tmp_path_factory.mktemp("caches"), {}
    kinds = {
        "float32": {"kind": "hidden", "hidden_type": "float32"},
        "bfloat16": {"kind": "hidden"},
        "int8": {"kind": "hidden", "hidden_type": "int8"},
        "all": {"kind": "top_k", "k": 256},
        "few": {"kind": "top_k", "k": 4, "tail_draws": 8},
        "rest": {"kind": "rest_sample", "draws": 200},
    }

    def cache(name):
        if name not in found:
            found[name] = root / name
            make_cache(make(root / "run", found[name], cache=kinds[name]), found[name], console=quiet())
        return found[name]

    return cache


def losses_of(config):
    train(config, console=quiet())
    return np.array([line["loss"] for line in read_metrics(config.run_dir)])


@pytest.fixture(scope="module")
def live(make, tmp_path_factory):
    return losses_of(make(tmp_path_factory.mktemp("live") / "run"))


def first_line(config):
    train(config, console=quiet())
    return read_metrics(config.run_dir)[0]


@pytest.fixture(scope="module")
def live_first(make, tmp_path_factory):
    return first_line(make(tmp_path_factory.mktemp("live") / "run", training={"steps": 1}))


@pytest.fixture
def counted(monkeypatch):
    """What runs were said to cost: the arguments of `step_costs`."""
    calls = []

    def count(**arguments):
        calls.append(arguments)
        return step_costs(**arguments)

    monkeypatch.setattr("atkd_jax.training.run_costs.step_costs", count)
    return calls


def test_from_float32_hidden_states_training_is_that_of_the_live_teacher(make, caches, live, counted, tmp_path):
    np.testing.assert_allclose(losses_of(make(tmp_path / "run", caches("float32"))), live, rtol=2e-5)
    # The teacher's head is multiplied all the same, and none of its layers.
    (costs,) = counted
    assert (costs["teacher"].num_layers, costs["runs_teacher_layers"]) == (4, False)


@pytest.mark.slow
@pytest.mark.parametrize("hidden_type", ["bfloat16", "int8"])
def test_from_narrow_hidden_states_it_is_so_to_their_rounding(make, caches, live, hidden_type, tmp_path):
    found = losses_of(make(tmp_path / "run", caches(hidden_type)))
    np.testing.assert_allclose(found, live, rtol=0.02)
    assert not np.array_equal(found, live)


@pytest.mark.slow
def test_with_nearly_all_words_kept_training_is_that_of_the_live_teacher(make, caches, live, tmp_path):
    # 45 of 301 words are not kept, and probabilities are kept to a thousandth.
    np.testing.assert_allclose(losses_of(make(tmp_path / "run", caches("all"))), live, rtol=0.01)


@pytest.mark.parametrize("kind", ["few", pytest.param("rest", marks=pytest.mark.slow)])
def test_the_gate_and_the_target_part_are_those_of_the_live_teacher(make, caches, live_first, kind, tmp_path):
    found = first_line(make(tmp_path / "run", caches(kind), training={"steps": 1}))
    exact = ("counted_tokens", "easy_share", "uncertainty_threshold", "uncertainty_easy", "uncertainty_hard")
    for name in (*exact, "target_kd_easy", "target_kd_hard"):
        np.testing.assert_allclose(found[name], live_first[name], rtol=2e-5, err_msg=name)


@pytest.mark.parametrize(
    ("kind", "objective"),
    [
        ("rest", {"name": "forward_kl"}),
        pytest.param("few", {"name": "generalized_jsd"}, marks=pytest.mark.slow),
        pytest.param("few", {"name": "skewed_reverse_kl", "cross_entropy_weight": 0.3}, marks=pytest.mark.slow),
        pytest.param("rest", {"name": "uncertainty_weighted_kl"}, marks=pytest.mark.slow),
    ],
)
def test_other_objectives_learn_from_few_words(make, caches, kind, objective, counted, tmp_path):
    assert np.isfinite(losses_of(make(tmp_path / "run", caches(kind), objective=objective))).all()
    assert counted[0]["teacher"] is None


@pytest.mark.parametrize("mesh", [{}, pytest.param({"fsdp": 2, "tensor": 2}, marks=pytest.mark.slow)])
def test_a_run_from_a_cache_goes_on_with_the_next_batch(make, caches, mesh, tmp_path):
    whole = losses_of(make(tmp_path / "whole", caches("few"), mesh=mesh))
    train(make(tmp_path / "parts", caches("few"), training={"steps": 2}, mesh=mesh), console=quiet())
    # The schedule is that of so many steps as there are, and was another one in step 2, whose loss comes before it.
    found = losses_of(make(tmp_path / "parts", caches("few"), mesh=mesh))
    np.testing.assert_allclose(found[:2], whole[:2], rtol=1e-6)
    np.testing.assert_allclose(found[2], whole[2], rtol=0.02)
    again = make(tmp_path / "parts", caches("few"), training={"steps": 4}, cache={"k": 5}, mesh=mesh)
    with pytest.raises(InputError, match=r"cache.k was 4 when it was made and is 5 now"):
        train(again, console=quiet())


def test_a_position_in_a_cache_that_was_replaced_is_refused(make, caches, tmp_path):
    directory = tmp_path / "cache"
    shutil.copytree(caches("few"), directory)
    train(make(tmp_path / "run", directory, training={"steps": 1}), console=quiet())
    shutil.rmtree(directory)
    make_cache(make(tmp_path / "run", directory, cache={"k": 3}), directory, console=quiet())
    with pytest.raises(
        InputError, match=r"The data position was saved with other data, .* \(signals was '[0-9a-f]+' and is"
    ):
        train(make(tmp_path / "run", directory, training={"steps": 2}), console=quiet())


def test_no_weights_of_the_teacher_are_in_memory_when_the_student_begins_to_learn(make, caches, tmp_path):
    seen = []
    others = jax.live_arrays()  # Of what the whole session shares, some have four rows as well.

    def look():
        # The teacher has 4 layers, stacked in its arrays, and the student 2.
        known = set(map(id, others))
        found = [array for array in jax.live_arrays() if id(array) not in known]
        seen.extend(array.shape for array in found if array.ndim > 1 and array.shape[0] == 4)
        raise KeyboardInterrupt

    def start(config):
        with pytest.raises(KeyboardInterrupt):
            train(config, console=quiet(), before_start=look)
        return len(seen)

    assert start(make(tmp_path / "run", caches("few"))) == 0
    assert start(make(tmp_path / "live")) > 0


@pytest.mark.slow
def test_a_student_that_is_not_cut_from_the_teacher_needs_none_of_its_weights(
    make, caches, tiny_teacher_directory, tmp_path, monkeypatch
):
    def refuse(*_, **__):
        raise AssertionError("the teacher was loaded")

    monkeypatch.setattr("atkd_jax.training.teaching.load_teacher", refuse)
    own = {"init": "scratch", "size": "0.3m", "layers": None}
    # Nor need they be there.
    described = shutil.copytree(
        tiny_teacher_directory, tmp_path / "teacher", ignore=shutil.ignore_patterns("*.safetensors")
    )
    cache = caches("float32")
    here, absent = (
        losses_of(make(tmp_path / name, student=own, teacher={"model": str(model), "cache": cache}))
        for name, model in {"here": tiny_teacher_directory, "absent": described}.items()
    )
    np.testing.assert_array_equal(here, absent)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"sequence_length": 48}}, "data.sequence_length was 64 when it was made and is 48 now"),
        ({"data": {"packing": False}}, "data.packing was true when it was made and is false now"),
        ({"data": {"template": "plain"}}, 'data.template was "chat" when it was made and is "plain" now'),
        ({"data": {"train_split": "train[:30]"}}, "data.examples was 40 when it was made and is 30 now"),
        ({"objective": {"temperature": 2.0}}, "objective.temperature was 1.0 when it was made and is 2.0 now"),
        ({"cache": {"kind": "hidden"}}, 'cache.kind was "top_k" when it was made and is "hidden" now'),
    ],
)
def test_a_cache_of_something_else_is_refused(make, caches, changes, message, tmp_path):
    with pytest.raises(InputError, match=message):
        train(make(tmp_path / "run", caches("few"), **changes), console=quiet())


def test_an_objective_that_the_kind_does_not_have_is_refused(make, caches, tmp_path):
    with pytest.raises(
        InputError, match=r"objective.name=reverse_kl cannot be learned from teacher.cache .* rest_sample"
    ):
        train(make(tmp_path / "run", caches("rest"), objective={"name": "reverse_kl"}), console=quiet())


def test_half_a_cache_is_refused(make, tmp_path):
    with pytest.raises(InputError, match=r"holds no cache; run `launch.py cache` with the same config first"):
        train(make(tmp_path / "run", tmp_path / "none"), console=quiet())


def test_text_that_is_written_during_the_run_is_refused(make, tmp_path):
    with pytest.raises(
        ValueError, match=r"teacher.cache=.* holds what the teacher says of the data's text, but rollout"
    ):
        make(tmp_path / "run", tmp_path, rollout={"author": "student"}, data={"packing": False})
