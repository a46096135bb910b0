import jax.numpy as jnp
import numpy as np
import pytest

from atkd_jax import losses
from atkd_jax.data.packed_numbers import LOG_PROB_STEP
from atkd_jax.data.signal_format import EXACT, SignalFormat
from atkd_jax.errors import InputError

TOKENS, VOCAB = 7, 500


@pytest.fixture(scope="module")
def teacher():
    """Distributions from flat to sure, the targets among the likeliest or not, in float64."""
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(TOKENS, VOCAB)) * np.linspace(0.1, 14.0, TOKENS)[:, None]
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    targets = np.where(np.arange(TOKENS) % 2, log_probs.argmax(axis=1), rng.integers(0, VOCAB, TOKENS))
    rest = log_probs.copy()
    rest[np.arange(TOKENS), targets] = -np.inf
    log_uncertainty = np.log(np.exp(rest).sum(axis=1))
    rest -= log_uncertainty[:, None]
    entropy = -np.sum(np.exp(rest) * np.maximum(rest, -1e30), axis=1)
    exact = (log_probs[np.arange(TOKENS), targets], log_uncertainty, entropy)
    return targets, log_probs, {name: value.astype(np.float32) for name, value in zip(EXACT, exact, strict=True)}


def top_k(teacher, k):
    _, log_probs, exact = teacher
    ids = np.argsort(-log_probs, axis=1)[:, :k]
    kept = np.take_along_axis(log_probs, ids, axis=1)
    rest_mass = 1 - np.exp(kept).sum(axis=1)
    return {**exact, "ids": ids, "log_probs": kept, "log_rest_mass": np.log(rest_mass).astype(np.float32)}


def there_and_back(form, arrays, targets):
    data = form.encode(arrays)
    return data, form.decode(data, targets)


@pytest.mark.parametrize("k", [1, 8, 128])
def test_the_likeliest_come_back_within_the_stated_bound_and_the_rest_exactly(teacher, k):
    targets, _, exact = teacher
    arrays = top_k(teacher, k)
    data, found = there_and_back(SignalFormat("top_k", VOCAB, k=k), arrays, targets)
    assert len(data) == TOKENS * (16 + 4 * k)
    for name in (*exact, "log_rest_mass"):
        np.testing.assert_array_equal(found[name], arrays[name])
    np.testing.assert_array_equal(found["ids"], arrays["ids"])
    np.testing.assert_allclose(found["log_probs"], arrays["log_probs"], rtol=0, atol=LOG_PROB_STEP + 1e-6)


def test_the_decoded_distribution_adds_up_to_one_and_has_the_exact_target(teacher):
    targets, _, exact = teacher
    found = there_and_back(SignalFormat("top_k", VOCAB, k=64), top_k(teacher, 64), targets)[1]
    total = np.exp(found["log_probs"].astype(np.float64)).sum(axis=1) + np.exp(found["log_rest_mass"])
    np.testing.assert_allclose(total, 1.0, rtol=0, atol=3e-7)
    rows, columns = np.nonzero(found["ids"] == targets[:, None])
    assert len(rows) >= 3
    np.testing.assert_array_equal(found["log_probs"][rows, columns], exact["target_log_prob"][rows])


def test_a_teacher_that_is_all_but_certain_keeps_its_order_of_the_others():
    """Their probabilities lie below what 16 bits of log p reach; beside UNC they do not."""
    log_rest = np.log([0.5, 0.3, 0.15, 0.05])
    log_probs = np.concatenate([[0.0], -90.0 + log_rest])[None]
    exact = {"target_log_prob": 0.0, "log_uncertainty": -90.0, "rest_entropy": -np.sum(np.exp(log_rest) * log_rest)}
    arrays = {name: np.array([value], np.float32) for name, value in exact.items()}
    arrays |= {"ids": np.arange(4)[None], "log_probs": log_probs[:, :4], "log_rest_mass": log_probs[:, 4].astype("f4")}
    found = there_and_back(SignalFormat("top_k", VOCAB, k=4), arrays, np.array([0]))[1]
    np.testing.assert_allclose(found["log_probs"], arrays["log_probs"], rtol=0, atol=LOG_PROB_STEP + 1e-5)


def test_from_stored_words_a_bound_holds_to_what_rounding_may_move(teacher):
    """Against float64's forward KL, with the student's words as likely as chance has them."""
    targets, log_probs, _ = teacher
    logits = np.random.default_rng(8).normal(size=log_probs.shape).astype(np.float32) * 3
    student = logits - np.log(np.exp(logits.astype(np.float64)).sum(axis=1, keepdims=True))
    parts = np.exp(log_probs) * (log_probs - student)
    may_move = LOG_PROB_STEP * np.sum(np.exp(log_probs) * np.abs(1 + log_probs - student), axis=1)
    for k in (1, 8, 128):
        found = there_and_back(SignalFormat("top_k", VOCAB, k=k), top_k(teacher, k), targets)[1]
        signal = losses.TopKSignal(**{name: jnp.asarray(array) for name, array in found.items()})
        own = losses.sparse_divergence(student_logits=jnp.asarray(logits), signal=signal, targets=jnp.asarray(targets))
        assert (np.asarray(own) <= parts.sum(axis=1) + may_move + 1e-4).all()


def test_fewer_entries_than_k_stay_fewer(teacher):
    arrays = top_k(teacher, 8)
    arrays["ids"][:, 5:], arrays["log_probs"][:, 5:] = -1, -np.inf
    found = there_and_back(SignalFormat("top_k", VOCAB, k=8), arrays, teacher[0])[1]
    np.testing.assert_array_equal(found["ids"], arrays["ids"])
    assert np.isneginf(found["log_probs"][:, 5:]).all()


def drawn(draws):
    """Ids that were drawn, each once, and how often."""
    ids, counts = np.full((TOKENS, draws), -1, np.int32), np.zeros((TOKENS, draws), np.int32)
    for token in range(TOKENS):
        own = np.unique(np.random.default_rng(token).integers(0, 30, draws), return_counts=True)
        ids[token, : len(own[0])], counts[token, : len(own[0])] = own
    return ids, counts


def test_draws_come_back_as_they_were(teacher):
    ids, counts = drawn(50)
    counts[3], ids[3] = 0, -1  # a teacher that leaves no other word
    form = SignalFormat("rest_sample", VOCAB, draws=50)
    data, found = there_and_back(form, {**teacher[2], "ids": ids, "counts": counts}, teacher[0])
    np.testing.assert_array_equal(found["ids"], ids)
    np.testing.assert_array_equal(found["counts"], counts)
    assert len(data) == TOKENS * 13 + 3 * (counts > 0).sum()


def test_a_tail_comes_back_with_its_weights(teacher):
    ids, counts = drawn(50)
    mass = np.array([0.5, 1e-9, 0.1, 0.2, 0.3, 0.0, 1e-3], np.float32)
    counts[5], ids[5] = 0, -1
    weights = mass[:, None] * (counts / 50).astype(np.float32)
    form = SignalFormat("top_k", VOCAB, k=8, tail_draws=50)
    data, found = there_and_back(form, top_k(teacher, 8) | {"tail_ids": ids, "tail_weights": weights}, teacher[0])
    np.testing.assert_array_equal(found["tail_ids"], ids)
    np.testing.assert_allclose(found["tail_weights"], weights, rtol=3e-7)
    assert len(data) == TOKENS * (16 + 4 * 8 + 5) + 3 * (counts > 0).sum()


@pytest.mark.parametrize(("hidden_type", "bytes_each"), [("float32", 4), ("bfloat16", 2), ("int8", 1)])
def test_hidden_states_come_back_in_their_type(teacher, hidden_type, bytes_each):
    form = SignalFormat("hidden", VOCAB, width=24, hidden_type=hidden_type)
    dtype = form.shapes()["hidden"][1]
    hidden = (np.random.default_rng(0).normal(size=(TOKENS, 24)) * 40).astype(dtype)
    scale = np.linspace(0.1, 1, TOKENS).astype(np.float32)
    arrays = {**teacher[2], "hidden": hidden} | ({"scale": scale} if hidden_type == "int8" else {})
    data, found = there_and_back(form, arrays, teacher[0])
    assert len(data) == TOKENS * (12 + 24 * bytes_each + (4 if hidden_type == "int8" else 0))
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_vocabulary_of_128256_words_costs_less_than_four_and_a_half_bytes_an_entry():
    form = SignalFormat("top_k", 128_256, k=256)
    arrays = {name: np.zeros(100, np.float32) for name in (*EXACT, "log_rest_mass")}
    arrays |= {"ids": np.full((100, 256), 128_255), "log_probs": np.full((100, 256), -5.5)}
    data = form.encode(arrays)
    assert len(data) / 100 / 256 == 4.125 + 16 / 256
    np.testing.assert_array_equal(form.decode(data, np.zeros(100, np.int32))["ids"], arrays["ids"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "top_k", "k": 257}, r"cache.k must be from 1 to 256 for this teacher's vocabulary, but 257 came"),
        ({"kind": "top_k", "k": 8, "tail_draws": 256}, r"cache.tail_draws must be from 0 to 255 .* but 256 came"),
        ({"kind": "rest_sample"}, r"cache.draws must be from 1 to 255 .* but 0 came"),
    ],
)
def test_numbers_out_of_range_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        SignalFormat(vocab_size=VOCAB, **given)
