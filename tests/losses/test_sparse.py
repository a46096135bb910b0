"""The table of what each loss is, and the checks that every sparse loss makes of its signal."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sparse_cases import NAMES, keys_of, random_case, signal_of, top_k_signal

from atkd_jax import losses
from atkd_jax.losses.sparse import KINDS, SPARSE_FORMS, checked, harmless, kind_of


def signal():
    _, teacher, targets = random_case()
    return top_k_signal(teacher, targets, keys_of(targets), k=3)


def test_every_loss_has_an_answer_for_every_kind():
    """Either what it is, or a sentence that says what to take instead."""
    for loss in (*NAMES, "uncertainty_weighted_kl", "cross_entropy", "target_kd", "adaptive_kl"):
        for kind in KINDS:
            if kind in SPARSE_FORMS[loss]:
                form = losses.sparse_form(loss=loss, kind=kind)
                assert bool(form.bound) == (form.value == "lower bound") == (form.gradient == "of the bound")
            else:
                with pytest.raises(ValueError, match="; take forward_kl"):
                    losses.sparse_form(loss=loss, kind=kind)
    assert {kind for kind in KINDS if losses.sparse_form(loss="target_kd", kind=kind).value == "exact"} == set(KINDS)


def test_the_page_says_what_the_table_says():
    page = (Path(__file__).parents[2] / "docs" / "sparse_losses.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip(" `") for cell in line.strip("|").split("|")] for line in page.splitlines() if "| `" in line[:3]
    ]
    said = {row[0]: dict(zip(KINDS, row[1:], strict=True)) for row in rows if len(row) == 1 + len(KINDS)}
    known = {
        loss: {kind: forms[kind].value if kind in forms else "refused" for kind in KINDS}
        for loss, forms in SPARSE_FORMS.items()
    }
    assert said == known


def test_unknown_names_are_errors():
    with pytest.raises(ValueError, match="sparse_form: kind must be 'top_k' or 'top_k_tail' or"):
        losses.sparse_form(loss="forward_kl", kind="logits")
    with pytest.raises(ValueError, match="sparse_form: loss must be 'forward_kl' or"):
        losses.sparse_form(loss="kl", kind="top_k")


def test_kinds():
    _, teacher, targets = random_case()
    for kind in ("top_k", "top_k_tail", "rest_sample"):
        assert kind_of(signal_of(kind, teacher, targets)) == kind


def test_what_is_no_signal_or_does_not_fit_is_an_error():
    with pytest.raises(TypeError, match="f: signal must be a TopKSignal or a RestSample, got tuple; build one with"):
        checked("f", (), (3, 4))
    with pytest.raises(ValueError, match=r"f: signal.target_log_prob must have shape \(3, 5\), .* got \(3, 4\); slice"):
        checked("f", signal(), (3, 5))
    with pytest.raises(ValueError, match=r"f: signal.log_probs must have shape \(3, 4, 2\), .* got \(3, 4, 3\)"):
        checked("f", signal()._replace(ids=signal().ids[..., :2]), (3, 4))
    with pytest.raises(TypeError, match=r"f: signal\.ids must be of integer type, got float32; build it as"):
        checked("f", signal()._replace(ids=signal().log_probs), (3, 4))
    tail = losses.TailSample(signal().ids, signal().ids)
    with pytest.raises(TypeError, match=r"f: signal\.tail\.weights must be of floating type, got int32"):
        checked("f", signal()._replace(tail=tail), (3, 4))


def test_nothing_is_left_where_nothing_counts():
    mask = jnp.zeros((3, 4), bool).at[1, 2].set(True)
    broken = jax.tree.map(lambda array: jnp.where(array == array, array, array), signal())
    broken = broken._replace(target_log_prob=jnp.where(mask, broken.target_log_prob, jnp.nan))
    cleaned = harmless(broken, mask)
    assert not np.isnan(cleaned.target_log_prob).any()
    assert (np.asarray(cleaned.ids)[~np.asarray(mask)] == -1).all()
    np.testing.assert_array_equal(cleaned.ids[1, 2], broken.ids[1, 2])
    np.testing.assert_array_equal(cleaned.log_probs[1, 2], broken.log_probs[1, 2])
