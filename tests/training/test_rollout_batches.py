"""Rollouts between steps: who is written for, the buffer, whole runs, and runs in two parts."""

import io
import json

import jax
import numpy as np
import pytest
from flax import nnx
from metric_lines import without_times
from rich.console import Console

from atkd_jax.commands.student import read_trained_student
from atkd_jax.config import Config
from atkd_jax.data import Template
from atkd_jax.generation import generate, row_keys
from atkd_jax.interop import load_model, load_tokenizer
from atkd_jax.sharding import RowShare
from atkd_jax.training import rollout_batches
from atkd_jax.training.metrics import read_metrics
from atkd_jax.training.rollout_batches import RolloutBatches, RolloutSettings
from atkd_jax.training.run import train


class Data:
    """Rows of prompt [row, row] and response [1], the same at every step."""

    def __init__(self, rows):
        self.rows = rows

    def __next__(self):
        tokens = np.ones((len(self.rows), 8), np.int32)
        tokens[:, :2] = np.array(self.rows)[:, None]
        here = np.broadcast_to(np.arange(8), tokens.shape)
        present = (here < 3).astype(np.int32)
        return {"tokens": tokens, "positions": here * present, "segment_ids": present, "loss_mask": here == 2}

    def get_state(self):
        return "place"

    def set_state(self, state):
        assert state == "place"


def echo(params, prompts, key, numbers):
    """Answers with the student's only weight, and where the key is an odd one, a second time."""
    return [[params[0]] * (1 + int(jax.random.bits(own)) % 2) for own in row_keys(key, numbers)]


echo.compilations = 1


def make(rows=range(6), share=RowShare(0, 1, True), **changes):  # noqa: B008 (it cannot change)
    corpus = changes.pop("corpus", None)
    settings = RolloutSettings(
        fraction=0.5, fraction_step=0.0, fraction_tolerance=0.1, buffer_size=0, steps=10, padding_id=0, seed=3
    )._replace(**changes)
    own = {"writer": echo, "params_of": lambda params: (params,), "share": share, "settings": settings}
    return RolloutBatches(Data(list(rows)), **own, corpus=corpus)


def rolled(batches, step, weight=9):
    return batches._rolled_out(weight, step, next(batches))


def written_rows(batch):
    return batch["tokens"][:, 2] != 1


def test_each_row_is_written_with_the_probability_and_differently_at_every_step():
    batches = make(range(50))
    shares = [written_rows(rolled(batches, step)[0]) for step in range(20)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.05)
    assert not np.array_equal(shares[0], shares[1])
    assert all(written_rows(rolled(make(fraction=1.0), 4)[0]))
    assert not any(written_rows(rolled(make(fraction=0.0), 4)[0]))


def test_processes_that_share_the_rows_write_what_one_process_writes():
    whole, _ = rolled(make(range(4), fraction=0.8), 5)
    # Each alone knows only its own rows here; the draws and keys are those of the rows in the global batch.
    halves = [
        rolled(make(range(2 * index, 2 * index + 2), RowShare(index, 2, True), fraction=0.8), 5)[0] for index in (0, 1)
    ]
    for name, array in whole.items():
        np.testing.assert_array_equal(np.concatenate([half[name] for half in halves]), array)


def test_the_buffer_gives_old_texts_ever_more_often_and_forgets_the_oldest():
    batches = make(range(40), fraction=1.0, buffer_size=60)
    old = []
    for step in range(10):
        batch, numbers = rolled(batches, step, weight=100 + step)
        old.append(numbers["rollout/buffered_rows"])
        assert numbers["rollout/buffered_rows"] + numbers["rollout/written_rows"] == 40
        assert set(np.unique(batch["tokens"][:, 2])) <= set(range(100, 101 + step))
        assert len(batches._buffer) <= 60
    assert old[:2] == [0, 0]  # The buffer is filled first.
    assert old[-1] > 25 > old[3]
    assert min(text.answer[0] for text in batches._buffer) > 100


def test_the_buffer_is_in_the_state():
    first = make(fraction=1.0, buffer_size=20)
    for step in range(4):
        rolled(first, step, weight=50 + step)
    state = json.loads(json.dumps(first.get_state()))
    second = make(fraction=1.0, buffer_size=20)
    second.set_state(state)
    for one, other in zip(rolled(first, 8)[0].values(), rolled(second, 8)[0].values(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_fraction_grows_when_the_validation_loss_has_risen_enough_since_it_was_set():
    batches = make(fraction=0.0, fraction_step=0.4)
    assert not batches.knows_validation_loss
    fractions = []
    for loss in (2.0, 2.05, 1.5, 2.15, 2.2, 2.3, 3.0):
        batches.hear_validation_loss(loss)
        fractions.append(rolled(batches, 0)[1]["rollout/fraction"])
    assert batches.knows_validation_loss
    assert fractions == [0.0, 0.0, 0.0, 0.4, 0.4, 0.8, 1.0]
    again = make(fraction=0.0, fraction_step=0.4)
    again.set_state(json.loads(json.dumps(batches.get_state())))
    again.hear_validation_loss(3.05)
    assert rolled(again, 0)[1]["rollout/fraction"] == 1.0
    plain = make()
    plain.hear_validation_loss(9.0)
    assert plain.knows_validation_loss  # Nobody wants it.


def test_a_corpus_stands_where_no_model_writes():
    batches = make(range(50), corpus=Data([77] * 50))
    batch, numbers = rolled(batches, 0)
    written = batch["is_written"].any(1)
    assert written.sum() == numbers["rollout/written_rows"]
    assert set(batch["tokens"][~written, 0]) == {77}
    np.testing.assert_array_equal(batch["tokens"][written, 0], np.arange(50)[written])
    assert batches.get_state()["corpus"] == "place"
    batches.set_state(batches.get_state())


@pytest.fixture
def config(tmp_path, tiny_teacher_directory, examples):
    def make(name, rollout, *, steps=4, every=100, **groups):
        tree = {
            "run_dir": tmp_path / name,
            "teacher": {"model": str(tiny_teacher_directory)},
            "student": {"layers": 2},
            "data": {"source": str(examples), "sequence_length": 64, "packing": False},
            "training": {"steps": steps, "batch_size": 8},
            "optimizer": {"learning_rate": 3e-3, "warmup_steps": 1},
            "checkpoint": {"every_steps": every, "keep": 9},
            "rollout": {"max_new_tokens": 12} | rollout,
        }
        return Config.model_validate(tree | groups)

    return make


def run(config):
    outcome = train(config, console=Console(file=io.StringIO(), width=200))
    return outcome.state, read_metrics(config.run_dir)


def test_a_run_in_two_parts_is_the_run_in_one_by_distillm(config, tmp_path):
    rollout = {"author": "student", "fraction": 0.3, "fraction_step": 0.4, "buffer_size": 2, "fraction_tolerance": 0}
    groups = {
        "objective": {"name": "skewed_forward_kl", "adaptive": True},
        "optimizer": {"learning_rate": 0.3, "warmup_steps": 1},  # So that the validation loss rises.
        "training": {"steps": 4, "batch_size": 8, "validate_every_steps": 1, "validation_examples": 8},
        "evaluation": {"split": "train[30:]"},
    }
    lines = in_one_and_in_two_parts(config, tmp_path, rollout, groups)
    fractions = [line["rollout/fraction"] for line in lines]
    assert fractions == sorted(fractions)
    assert fractions[0] < fractions[-1]
    assert sum(line["rollout/buffered_rows"] for line in lines) > 0
    assert all("validation/cross_entropy" in line for line in lines)


def test_a_run_in_two_parts_is_the_run_in_one_with_a_corpus(config, tmp_path, examples):
    corpus = tmp_path / "plain.jsonl"
    corpus.write_text("".join(json.dumps({"text": f"x = {number}\n" * 9}) + "\n" for number in range(30)))
    data = {"source": str(examples), "sequence_length": 64, "packing": False, "corpus": str(corpus)}
    groups = {"objective": {"name": "minillm_lmops"}, "data": data}
    lines = in_one_and_in_two_parts(config, tmp_path, {"author": "mixed", "fraction": 0.5}, groups)
    # Rows of the corpus are full, those of the data are not.
    assert min(line["counted_tokens"] for line in lines) > 64


def in_one_and_in_two_parts(config, tmp_path, rollout, groups):
    """Runs four steps, and the last two of them again from the checkpoint; both must be the same. Gives the lines."""
    whole, lines = run(config("whole", rollout, every=2, **groups))
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert all({"rollout/written_rows", "rollout/mean_tokens", "rollout/seconds"} <= set(line) for line in lines)
    assert lines[-1]["rollout/compilations"] <= 4
    checkpoints = tmp_path / "whole" / "checkpoints"
    (checkpoints / "4").rename(tmp_path / "last")  # As if the run had been killed after step 2.
    again, lines_again = run(config("whole", rollout, every=2, **groups))
    for one, other in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, other)
    assert without_times(lines) == without_times(lines_again)
    return lines


@pytest.fixture
def texts(monkeypatch):
    """What was written at each step of the runs of a test, by row."""
    seen, real = [], rollout_batches.with_texts

    def keep(batch, own, **options):
        seen.append(dict(own))
        return real(batch, own, **options)

    monkeypatch.setattr(rollout_batches, "with_texts", keep)
    return seen


@pytest.mark.parametrize(
    "rollout",
    [
        {"author": "student"},
        pytest.param({"author": "teacher"}, marks=pytest.mark.slow),
        pytest.param({"author": "mixed", "teacher_weight": 1.0}, marks=pytest.mark.slow),
        pytest.param({"author": "mixed", "teacher_weight": 0.0}, marks=pytest.mark.slow),
    ],
)
def test_who_is_named_writes_with_the_weights_of_that_step(config, tiny_teacher_directory, texts, rollout):
    """Greedily, so that it can be written again: here by the whole text's generation, from a checkpoint's weights."""
    settings = config("run", rollout | {"temperature": 0}, steps=2, every=1, optimizer={"learning_rate": 0.03})
    run(settings)
    student, _ = read_trained_student(settings, teacher_directory=tiny_teacher_directory, step=1)
    models = [student, load_model(tiny_teacher_directory)]
    if rollout["author"] == "teacher" or rollout.get("teacher_weight") == 1:
        models.reverse()
    form = Template("chat", load_tokenizer(tiny_teacher_directory))
    options = {"max_new_tokens": 12, "eos_ids": form.stop_ids, "pad_id": form.padding_id}
    written = list(texts[1].values())
    mine, others = (generate(*nnx.split(each), [text.prompt for text in written], **options) for each in models)
    assert [list(text.answer) for text in written] == mine != others


def test_every_row_is_the_student_s_or_the_teacher_s(config):
    _, by_student = run(config("student", {"author": "student"}, steps=1, objective={"name": "reverse_kl"}))
    _, by_teacher = run(config("teacher", {"author": "teacher", "temperature": 0}, steps=1))
    assert by_student[0]["rollout/written_rows"] == by_teacher[0]["rollout/written_rows"] == 8
    assert 0 < by_student[0]["rollout/mean_tokens"] <= 12
    assert by_student[0]["counted_tokens"] == 8 * by_student[0]["rollout/mean_tokens"]


@pytest.mark.parametrize(
    ("name", "adaptive", "mesh"),
    [("minillm_paper", False, {}), pytest.param("minillm_lmops", True, {"fsdp": 2}, marks=pytest.mark.slow)],
)
def test_minillm_trains_and_does_not_depend_on_microbatches_and_meshes(config, name, adaptive, mesh):
    rollout = {"author": "mixed", "fraction": 0.5}
    settings = {
        "objective": {"name": name, "adaptive": adaptive},
        "optimizer": {"learning_rate": 3e-3, "warmup_steps": 1, "eps": 1e-2},
    }
    _, lines = run(config("one", rollout, training={"steps": 2, "batch_size": 16}, **settings))
    parts = {"steps": 2, "batch_size": 16, "microbatches": 2}
    _, others = run(config("two", rollout, training=parts, mesh=mesh, **settings))
    names = {"loss", "surrogate", "reward_mean", "importance_mean", "written_cross_entropy", "gradient_norm"}
    assert names | {"on_data/cross_entropy"} <= set(lines[0])
    assert {line["rollout/written_rows"] for line in lines} & set(range(2, 15))
    assert lines[0]["importance_mean"] == pytest.approx(1, abs=0.25)
    for one, other in zip(lines, others, strict=True):
        for metric in names:
            np.testing.assert_allclose(one[metric], other[metric], rtol=1e-4, atol=1e-6, err_msg=metric)


def test_meshes_write_the_same(config):
    rollout = {"author": "mixed", "fraction": 0.7}
    settings = {"steps": 2, "optimizer": {"learning_rate": 3e-3, "warmup_steps": 1, "eps": 1e-2}}
    _, plain = run(config("plain", rollout, **settings))
    _, other = run(config("other", rollout, mesh={"fsdp": 2, "tensor": 2}, **settings))
    np.testing.assert_allclose([line["loss"] for line in plain], [line["loss"] for line in other], rtol=1e-5)
    for name in ("rollout/written_rows", "rollout/mean_tokens"):
        assert [line[name] for line in plain] == [line[name] for line in other]
