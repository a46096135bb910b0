import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from atkd_jax.errors import InputError
from atkd_jax.training.checkpoints import Checkpoints, abstract_state_like
from atkd_jax.training.reading import read_student_params
from atkd_jax.training.state import initial_state

CONFIG = {"seed": 1, "student": {"keep_layers": [0, 3]}}
OPTIMIZER = optax.adam(1e-3)


def state_of(seed, width=4096):
    params = {"layers": {"kernel": jax.random.normal(jax.random.key(seed), (3, width))}, "scale": jnp.ones(5)}
    return initial_state(params, optimizer=OPTIMIZER, seed=seed)


def assert_equal(one, other):
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_everything_comes_back(tmp_path):
    state = state_of(0)._replace(step=jnp.array(7, jnp.int32))
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.newest_step() is None
        checkpoints.save(state, step=7, data_state={"row": [1, 2]}, config=CONFIG)
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.newest_step() == 7
        restored = checkpoints.restore(abstract_state_like(state_of(1)))
    assert_equal(restored.state, state)
    assert restored.data_state == {"row": [1, 2]}
    assert restored.config == CONFIG
    params, step = read_student_params(tmp_path, abstract_state_like(state_of(1)).params)
    assert step == 7
    assert_equal(params, state.params)


def test_a_checkpoint_holds_the_weights_of_its_step_though_the_next_step_reuses_their_memory(tmp_path):
    overwrite = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf * 0 + leaf.dtype.type(3), state), donate_argnums=0)
    state = state_of(0, width=2**18)
    expected = jax.tree.map(np.array, state)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state, step=1, data_state=None, config=CONFIG)
        for _ in range(3):
            state = overwrite(state)
        jax.block_until_ready(state)
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        assert_equal(checkpoints.restore(abstract_state_like(state)).state, expected)


def test_only_the_newest_stay(tmp_path):
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2, 3, 4):
            checkpoints.save(state_of(step), step=step, data_state=step, config=CONFIG)
        checkpoints.save(state_of(9), step=4, data_state=9, config=CONFIG)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["3", "4"]
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        assert checkpoints.restore(abstract_state_like(state_of(0))).data_state == 4


def test_no_checkpoint_is_a_sentence(tmp_path):
    with (
        Checkpoints(tmp_path, keep=1) as checkpoints,
        pytest.raises(InputError, match=r"holds no checkpoint; train first"),
    ):
        checkpoints.restore(abstract_state_like(state_of(0)))
    with pytest.raises(InputError, match=r"holds no checkpoint; train first"):
        read_student_params(tmp_path / "nowhere", {})


def test_another_models_checkpoint_is_refused(tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state_of(0, width=8), step=1, data_state=None, config=CONFIG)
        checkpoints.wait()
        with pytest.raises(InputError, match=r"its params.layers.kernel is \(3, 8\), the config's \(3, 16\)"):
            checkpoints.restore(abstract_state_like(state_of(0, width=16)))


@pytest.mark.parametrize("damage", ["truncate", "flip"])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state_of(0, width=2**16), step=1, data_state=None, config=CONFIG)
    largest = max((path for path in tmp_path.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    if damage == "truncate":
        data = data[: len(data) // 2]
    else:
        data[len(data) // 2] ^= 0x40
    largest.write_bytes(bytes(data))
    abstract = abstract_state_like(state_of(0, width=2**16))
    with (
        Checkpoints(tmp_path, keep=1) as checkpoints,
        pytest.raises(InputError, match=r"cannot be read.*it is damaged"),
    ):
        checkpoints.restore(abstract)
    with pytest.raises(InputError, match=r"cannot be read.*it is damaged"):
        read_student_params(tmp_path, {"layers": abstract.params["layers"]} | {"scale": abstract.params["scale"]})


def test_a_changed_record_of_the_run_is_refused(tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(state_of(0), step=1, data_state={"row": 41}, config=CONFIG)
    path = tmp_path / "1" / "run" / "metadata"
    path.write_text(path.read_text().replace("41", "42"))
    with Checkpoints(tmp_path, keep=1) as checkpoints, pytest.raises(InputError, match=r"the run's record is not what"):
        checkpoints.restore(abstract_state_like(state_of(0)))


def test_a_disk_without_room_is_found_before_anything_is_written(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100_000))
    with (
        Checkpoints(tmp_path, keep=1) as checkpoints,
        pytest.raises(InputError, match=r"0.1 MB free, and a checkpoint"),
    ):
        checkpoints.save(state_of(0), step=1, data_state=None, config=CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    checkpoints = Checkpoints(tmp_path, keep=1)
    (tmp_path / "3.orbax-checkpoint-tmp").mkdir()
    monkeypatch.setattr(checkpoints._manager, "save", full)
    with pytest.raises(OSError, match="No space"), checkpoints:
        checkpoints.save(state_of(0), step=3, data_state=None, config=CONFIG)
    assert list(tmp_path.iterdir()) == []
