import jax.numpy as jnp
import numpy as np
import pytest

from atkd_jax import losses
from atkd_jax.data.cache_manifest import Manifest
from atkd_jax.data.signal_format import SignalFormat
from atkd_jax.errors import InputError
from atkd_jax.teachers.cached import HEAD_NAME, CachedTeacher, read_head, write_head

SHAPE = (2, 3, 5)  # micro-batches, rows, length


def batch_for(form):
    """Arrays as a batch has them, all different."""
    rng = np.random.default_rng(0)
    found = {}
    for name, (shape, dtype) in form.shapes().items():
        values = rng.integers(0, 9, (*SHAPE, *shape)) if dtype.kind == "i" else rng.normal(size=(*SHAPE, *shape))
        found[f"teacher/{name}"] = jnp.asarray(values.astype(dtype))
    return found


@pytest.mark.parametrize(
    ("form", "kind"),
    [
        (SignalFormat("top_k", 40, k=3), losses.TopKSignal),
        (SignalFormat("top_k", 40, k=3, tail_draws=4), losses.TopKSignal),
        (SignalFormat("rest_sample", 40, draws=4), losses.RestSample),
    ],
)
def test_a_signal_of_few_words_is_the_batchs_arrays(form, kind):
    teacher, batch = CachedTeacher(form, "float32", None), batch_for(form)
    assert set(teacher.names) == set(batch)
    signal = teacher.signal(batch)
    assert signal.hidden is None
    assert isinstance(signal.sparse, kind)
    assert signal.target_log_probs is batch["teacher/target_log_prob"]
    given = signal.sparse._asdict()
    tail = given.pop("tail", None)
    for name, array in given.items():
        assert array is batch[f"teacher/{name}"]
    assert (tail is None) == (not form.tail_draws)
    if tail is not None:
        assert (tail.ids is batch["teacher/tail_ids"], tail.weights is batch["teacher/tail_weights"]) == (True, True)


@pytest.mark.parametrize("hidden_type", ["bfloat16", "int8"])
def test_hidden_states_come_in_the_live_teachers_type(hidden_type):
    form = SignalFormat("hidden", 40, width=6, hidden_type=hidden_type)
    batch = batch_for(form)
    signal = CachedTeacher(form, "float32", None).signal(batch)
    assert signal.sparse is None
    expected = np.asarray(batch["teacher/hidden"], np.float32)
    if hidden_type == "int8":
        expected = expected * np.asarray(batch["teacher/scale"])[..., None]
    np.testing.assert_array_equal(np.asarray(signal.hidden), expected)
    assert CachedTeacher(form, "bfloat16", None).signal(batch).hidden.dtype == jnp.bfloat16


def test_the_head_comes_back_and_a_flipped_byte_in_it_is_found(tmp_path):
    head = np.random.default_rng(0).normal(size=(6, 40)).astype(np.float32)
    manifest = Manifest({}, {}, head=write_head(tmp_path, head))
    np.testing.assert_array_equal(read_head(tmp_path, manifest), head)
    content = bytearray((tmp_path / HEAD_NAME).read_bytes())
    content[300] ^= 1
    (tmp_path / HEAD_NAME).write_bytes(content)
    with pytest.raises(InputError, match=r"head.npy must be the teacher's head as `cache` wrote it, but is damaged"):
        read_head(tmp_path, manifest)
