import errno
import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from atkd_jax.errors import InputError
from atkd_jax.training import reading
from atkd_jax.training.checkpoints import Checkpoints, abstract_state_like
from atkd_jax.training.reading import DamagedCheckpointError, read_checkpoint, read_student_params
from atkd_jax.training.state import initial_state


def state_of(seed):
    params = {"layers": {"kernel": jax.random.normal(jax.random.key(seed), (3, 64))}, "scale": jnp.ones(5)}
    return initial_state(params, optimizer=optax.adam(1e-3), seed=seed)


@pytest.fixture
def two_steps(tmp_path):
    """A directory with the checkpoints 1 and 2."""
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(state_of(step), step=step, data_state={"at": step}, config={"seed": 1})
    return tmp_path


def test_a_part_of_the_state_is_read_and_compared_alone(two_steps):
    abstract = abstract_state_like(state_of(0))
    state, run = read_checkpoint(two_steps / "2", {"params": abstract.params})
    assert state.keys() == {"params"}
    np.testing.assert_array_equal(state["params"]["layers"]["kernel"], state_of(2).params["layers"]["kernel"])
    assert run["data_state"] == {"at": 2}


def test_the_newest_whole_checkpoint_gives_the_student_and_others_are_reported(two_steps):
    (two_steps / "2" / "run" / "metadata").write_text("{")
    said = []
    abstract = abstract_state_like(state_of(0)).params
    params, step = read_student_params(two_steps, abstract, report=said.append)
    assert step == 1
    np.testing.assert_array_equal(params["layers"]["kernel"], state_of(1).params["layers"]["kernel"])
    assert len(said) == 1
    assert f"checkpoint {two_steps / '2'} cannot be read" in said[0]
    with pytest.raises(DamagedCheckpointError, match=r"2 cannot be read.*it is damaged"):
        read_student_params(two_steps, abstract, step=2)
    shutil.rmtree(two_steps / "1" / "state")
    with pytest.raises(DamagedCheckpointError, match=r"1 cannot be read.*it is damaged"):
        read_student_params(two_steps, abstract, report=said.append)


def test_weights_without_a_sharding_come_to_one_device_whatever_mesh_saved_them(two_steps):
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), state_of(0).params)
    params, _ = read_student_params(two_steps, abstract)
    assert params["scale"].sharding.device_set == {jax.devices()[0]}


def test_a_record_without_digests_is_damaged(two_steps):
    path = two_steps / "2" / "run" / "metadata"
    record = json.loads(path.read_text())
    del record["digests"]
    path.write_text(json.dumps(record))
    with pytest.raises(DamagedCheckpointError, match=r"the run's record is not what was saved"):
        read_checkpoint(two_steps / "2", abstract_state_like(state_of(0)))


def test_another_model_is_not_called_damaged(two_steps):
    with pytest.raises(InputError, match=r"belongs to another model \(it has no params.bias\)") as raised:
        read_checkpoint(two_steps / "2", {"params": {"bias": jax.ShapeDtypeStruct((3,), jnp.float32)}})
    assert not isinstance(raised.value, DamagedCheckpointError)


def failing(monkeypatch, error, place):
    """Lets a read of the run's record, or of the state, end in an error."""

    def fail(*_, **__):
        raise error

    monkeypatch.setattr({"run": "pathlib.Path.read_text", "state": RESTORE}[place], fail)


RESTORE = "orbax.checkpoint.PyTreeCheckpointHandler.restore"
SYSTEM = [errno.EIO, errno.ESTALE, errno.ENOMEM, errno.EMFILE, errno.EACCES, errno.ETIMEDOUT]


@pytest.mark.parametrize("place", ["run", "state"])
@pytest.mark.parametrize(
    "error",
    [
        *(OSError(number, os.strerror(number), "metadata") for number in SYSTEM),
        MemoryError(),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes."),
        ValueError(f"Error opening file: Input/output error [os_error_code='{errno.EIO}']"),
    ],
    ids=repr,
)
def test_what_keeps_the_machine_from_reading_is_not_called_damage(two_steps, monkeypatch, error, place):
    failing(monkeypatch, error, place)
    with pytest.raises(type(error)) as raised:
        read_student_params(two_steps, abstract_state_like(state_of(0)).params)
    assert raised.value is error


def test_an_error_that_a_library_made_of_the_machines_is_not_called_damage(two_steps, monkeypatch):
    wrapped = KeyError("state")
    wrapped.__cause__ = OSError(errno.EIO, "Input/output error")
    failing(monkeypatch, wrapped, "state")
    with pytest.raises(KeyError):
        read_checkpoint(two_steps / "2", abstract_state_like(state_of(0)))


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file or directory", "metadata"),
        NotADirectoryError(errno.ENOTDIR, "Not a directory", "metadata"),
        OSError("a short file"),
        ValueError("DATA_LOSS: checksum [os_error_code='2']"),
    ],
    ids=repr,
)
def test_a_missing_or_short_file_is_called_damage(two_steps, monkeypatch, error):
    failing(monkeypatch, error, "state")
    with pytest.raises(DamagedCheckpointError, match=r"2 cannot be read.*it is damaged"):
        read_checkpoint(two_steps / "2", abstract_state_like(state_of(0)))


def test_what_kept_another_process_from_reading_is_not_called_damage(two_steps, monkeypatch):
    other = {"damage": None, "difference": None, "refusal": "[Errno 5] Input/output error"}
    monkeypatch.setattr(reading, "gathered", lambda own: [own, other])
    with pytest.raises(
        InputError, match=r"not be read by another process \(\[Errno 5\] Input/output error\)"
    ) as raised:
        read_checkpoint(two_steps / "2", abstract_state_like(state_of(0)))
    assert not isinstance(raised.value, DamagedCheckpointError)
