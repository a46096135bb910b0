import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from atkd_jax.errors import InputError
from atkd_jax.evaluation.measuring import measure
from atkd_jax.models import Decoder, DecoderConfig
from atkd_jax.sharding import make_mesh

VOCAB = 13
NAMES = ("cross_entropy", "forward_kl", "reverse_kl", "agreement", "accuracy", "calibration_error")


def decoder(seed, *, width=16, num_layers=2, vocab_size=VOCAB):
    config = DecoderConfig(
        vocab_size=vocab_size,
        width=width,
        num_layers=num_layers,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        mlp_width=24,
    )
    model = Decoder(config, rngs=nnx.Rngs(seed))
    # Larger than a fresh model's weights, so that the models disagree.
    return nnx.merge(nnx.graphdef(model), jax.tree.map(lambda param: 8 * param, nnx.state(model)))


def near(model, other):
    graphdef, params = nnx.split(model)
    mixed = jax.tree.map(lambda own, foreign: 0.8 * own + 0.2 * foreign, params, nnx.state(other))
    return nnx.merge(graphdef, mixed)


@functools.cache
def models():
    teacher = decoder(0)
    return teacher, {"student": near(teacher, decoder(2))}


def some_examples(seed=0, count=7):
    """Token ids and, for each, whether it is of the response; lengths differ."""
    draw = np.random.default_rng(seed)
    examples = []
    for _ in range(count):
        # Few lengths, because the oracle compiles for each.
        length = int(draw.choice([4, 11]))
        prompt_length = int(draw.integers(1, length))
        examples.append((draw.integers(0, VOCAB, length), np.arange(length) >= prompt_length))
    return examples


def batched(rows_of_examples, *, length, rows_per_batch):
    """Batches of rows, each of which holds some examples one after the other."""
    rows = []
    for examples in rows_of_examples:
        row = {name: np.zeros(length, np.int32) for name in ("tokens", "positions", "segment_ids")}
        row["loss_mask"] = np.zeros(length, bool)
        start = 0
        for segment, (tokens, counts) in enumerate(examples, start=1):
            place = slice(start, start + len(tokens))
            row["tokens"][place], row["loss_mask"][place] = tokens, counts
            row["positions"][place], row["segment_ids"][place] = np.arange(len(tokens)), segment
            start += len(tokens)
        rows.append(row)
    blank = {name: np.zeros_like(array) for name, array in rows[0].items()}
    rows += [blank] * (-len(rows) % rows_per_batch)
    return [
        {name: np.stack([row[name] for row in rows[first : first + rows_per_batch]]) for name in blank}
        for first in range(0, len(rows), rows_per_batch)
    ]


def one_per_row(examples, *, length=12, rows_per_batch=4):
    return batched([[example] for example in examples], length=length, rows_per_batch=rows_per_batch)


@nnx.jit
def forward(model, tokens):
    return model(tokens)


def oracle(teacher, student, examples):
    """The numbers of every counted token by NumPy in float64, one example at a time, unpadded; `[tokens, 7]`.

    Cross-entropy, forward and reverse KL, agreement, accuracy, confidence, and the teacher's cross-entropy.
    """
    found = []
    for tokens, counts in examples:
        log_probs = []
        for model in (student, teacher):
            logits = np.asarray(forward(model, jnp.asarray(tokens, jnp.int32)[None])[0], np.float64)
            log_probs.append(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))
        own, teachers = log_probs
        for place in range(len(tokens) - 1):
            if counts[place + 1]:
                p, q, target = teachers[place], own[place], tokens[place + 1]
                kls = np.sum(np.exp(p) * (p - q)), np.sum(np.exp(q) * (q - p))
                best = q.argmax()
                found.append((-q[target], *kls, p.argmax() == best, best == target, np.exp(q[best]), -p[target]))
    return np.array(found)


def calibration_error(accuracy, confidence, weights=None):
    """The definition, interval by interval."""
    weights = np.ones(len(accuracy)) if weights is None else weights
    error = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if weights[inside].sum():
            gap = np.average(accuracy[inside] - confidence[inside], weights=weights[inside])
            error += abs(gap) * weights[inside].sum() / weights.sum()
    return error


def as_row(scores):
    return [getattr(scores, name) for name in NAMES]


def test_it_agrees_with_numpy_in_float64():
    teacher, students = models()
    students = {"student before": decoder(1, width=8, num_layers=1), **students}
    # In which no two tokens at a border are so alike that they would share it.
    examples = some_examples(seed=2)
    report = measure(teacher, students, one_per_row(examples))
    assert list(report.scores) == ["teacher", "student before", "student"]
    for name, model in {"teacher": teacher, **students}.items():
        tokens = oracle(teacher, model, examples)
        assert report.counted_tokens == len(tokens)
        expected = [*tokens[:, :5].mean(0), calibration_error(tokens[:, 4], tokens[:, 5])]
        np.testing.assert_allclose(as_row(report.scores[name]), expected, rtol=2e-5, atol=1e-6)
        # Decile number d: the mean over the d-th tenth of the tokens, by UNC; one at a border counts on both sides.
        tokens = tokens[np.argsort(tokens[:, 6])]
        places = np.arange(len(tokens))
        for number, decile in enumerate(report.deciles):
            low, high = number * len(tokens) / 10, (number + 1) * len(tokens) / 10
            weights = np.clip(np.minimum(places + 1, high) - np.maximum(places, low), 0, None)
            means = np.average(tokens[:, :5], axis=0, weights=weights)
            expected = [*means, calibration_error(tokens[:, 4], tokens[:, 5], weights)]
            np.testing.assert_allclose(as_row(decile.scores[name]), expected, rtol=2e-5, atol=1e-6)
            unc = -np.expm1(-tokens[:, 6])
            np.testing.assert_allclose(decile.mean_unc, np.average(unc, weights=weights), rtol=2e-5, atol=1e-6)
            assert decile.unc_from <= unc[weights > 0].min() + 1e-6
            assert decile.unc_to >= unc[weights > 0].max() - 1e-6
    assert 0 < report.scores["student"].agreement < 1


@pytest.mark.parametrize(
    "cut",
    [
        lambda examples: one_per_row(examples, rows_per_batch=1),
        lambda examples: one_per_row(examples, length=40),
        lambda examples: batched([examples[:3], examples[3:5], examples[5:]], length=36, rows_per_batch=2),
        lambda examples: batched([examples], length=90, rows_per_batch=3),
    ],
    ids=["one row", "much padding", "packed", "all in one row"],
)
def test_the_numbers_do_not_depend_on_how_the_data_is_cut(cut):
    teacher, students = models()
    examples = some_examples(seed=1)
    plain = measure(teacher, students, one_per_row(examples))
    other = measure(teacher, students, cut(examples))
    assert other.counted_tokens == plain.counted_tokens
    for name in plain.scores:
        np.testing.assert_allclose(as_row(other.scores[name]), as_row(plain.scores[name]), rtol=1e-5)


@pytest.mark.parametrize("chunk_tokens", [1, 4096])
def test_the_numbers_do_not_depend_on_the_chunk(chunk_tokens):
    teacher, students = models()
    batches = one_per_row(some_examples())
    expected = measure(teacher, students, batches)
    report = measure(teacher, students, batches, chunk_tokens=chunk_tokens)
    for name in expected.scores:
        np.testing.assert_allclose(as_row(report.scores[name]), as_row(expected.scores[name]), rtol=1e-6)


@pytest.mark.parametrize("axes", [{"fsdp": 2, "tensor": 2}, {"fsdp": 8}])
def test_the_numbers_do_not_depend_on_the_mesh(axes):
    teacher, students = models()
    batches = one_per_row(some_examples(), rows_per_batch=3)
    expected = measure(teacher, students, batches)
    report = measure(teacher, students, batches, mesh=make_mesh(**axes))
    assert report.counted_tokens == expected.counted_tokens
    for name in expected.scores:
        np.testing.assert_allclose(as_row(report.scores[name]), as_row(expected.scores[name]), rtol=1e-5)


def test_a_teacher_agrees_with_itself():
    teacher, _ = models()
    report = measure(teacher, {"again": teacher}, one_per_row(some_examples()))
    assert report.scores["again"] == report.scores["teacher"]
    assert (report.scores["teacher"].forward_kl, report.scores["teacher"].agreement) == (0.0, 1.0)


def test_the_teacher_alone_can_be_measured():
    teacher, students = models()
    batches = one_per_row(some_examples())
    assert measure(teacher, {}, batches).scores == {"teacher": measure(teacher, students, batches).scores["teacher"]}


class Bigram(nnx.Module):
    """A model whose prediction depends on the last token alone, so that a NaN stays where it is."""

    calls = 0

    def __init__(self, logits):
        self.table = nnx.Param(jnp.asarray(logits, jnp.float32))
        self.config = types.SimpleNamespace(vocab_size=np.shape(logits)[1])

    def hidden_states(self, tokens, *, positions, segment_ids):
        type(self).calls += 1
        return self.table[...][tokens]

    def logits(self, hidden):
        return hidden


def test_what_is_not_counted_reaches_no_number():
    draw = np.random.default_rng(0)
    tables = draw.normal(size=(2, VOCAB, VOCAB))
    tokens = np.array([[VOCAB - 1, 1, 2, 3, VOCAB - 1, VOCAB - 1]], np.int32)
    batch = {
        "tokens": tokens,
        "positions": np.arange(6, dtype=np.int32)[None],
        "segment_ids": np.array([[1, 1, 1, 1, 1, 0]], np.int32),
        "loss_mask": np.array([[False, False, True, True, False, True]]),
    }
    clean = measure(Bigram(tables[0]), {"student": Bigram(tables[1])}, [batch])
    tables[:, VOCAB - 1] = np.nan
    report = measure(Bigram(tables[0]), {"student": Bigram(tables[1])}, [batch])
    assert report == clean
    assert report.counted_tokens == 2


def test_the_teacher_runs_once_for_all_students():
    class Teacher(Bigram):
        calls = 0

    table = np.zeros((VOCAB, VOCAB))
    measure(Teacher(table), {"a": Bigram(table), "b": Bigram(table)}, one_per_row(some_examples()))
    assert Teacher.calls == 1


def test_sums_over_many_tokens_keep_their_digits():
    uniform = Bigram(np.zeros((3, 3)))
    shape = (64, 1024)
    batch = {name: np.ones(shape, np.int32) for name in ("tokens", "positions", "segment_ids")}
    batch["loss_mask"] = np.ones(shape, bool)
    report = measure(uniform, {}, [batch] * 4, chunk_tokens=shape[0] * shape[1])
    assert report.counted_tokens == 4 * 64 * 1023
    # Every token's float32 value is the same; a float32 sum of 261,888 of them would be off by far more.
    np.testing.assert_allclose(report.scores["teacher"].cross_entropy, np.float32(np.log(3)), rtol=2e-7)


def test_heads_are_cut_to_the_vocabulary():
    draw = np.random.default_rng(0)
    teacher, student = draw.normal(size=(VOCAB, VOCAB)), draw.normal(size=(VOCAB, VOCAB))
    batches = one_per_row(some_examples())
    expected = measure(Bigram(teacher), {"student": Bigram(student)}, batches)
    padded = Bigram(np.pad(teacher, ((0, 0), (0, 3)), constant_values=50.0))
    assert measure(padded, {"student": Bigram(student)}, batches, vocab_size=VOCAB) == expected
    with pytest.raises(ValueError, match=r"heads must be of one size, got \{'teacher': 16, 'student': 13\}"):
        measure(padded, {"student": Bigram(student)}, batches)
    with pytest.raises(ValueError, match="vocab_size=14 must be at most the smallest head"):
        measure(padded, {"student": Bigram(student)}, batches, vocab_size=14)


def test_no_counted_token_is_refused():
    batches = [batch | {"loss_mask": np.zeros_like(batch["loss_mask"])} for batch in one_per_row(some_examples())]
    with pytest.raises(InputError, match="no token of the split counts"):
        measure(Bigram(np.zeros((VOCAB, VOCAB))), {}, batches)


def test_no_batches_are_refused():
    with pytest.raises(InputError, match="no token of the split counts"):
        measure(Bigram(np.zeros((VOCAB, VOCAB))), {}, [])


def test_a_student_may_not_be_named_teacher():
    model = Bigram(np.zeros((VOCAB, VOCAB)))
    with pytest.raises(ValueError, match="a student is named 'teacher'"):
        measure(model, {"teacher": model}, [])


def test_progress_is_told_batch_by_batch():
    done = []
    batches = one_per_row(some_examples(), rows_per_batch=2)
    measure(Bigram(np.zeros((VOCAB, VOCAB))), {}, batches, on_batch=done.append)
    assert done == [1, 2, 3, 4]
