"""Checkpoints with a byte flipped, cut short or half there are recognised, reported and passed over."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from atkd_jax.errors import InputError
from atkd_jax.training.checkpoints import Checkpoints, abstract_state_like
from atkd_jax.training.reading import DamagedCheckpointError, read_checkpoint
from atkd_jax.training.state import initial_state


def state_of(seed):
    params = {"layers": {"kernel": jax.random.normal(jax.random.key(seed), (3, 4096))}, "scale": jnp.ones(5)}
    return initial_state(params, optimizer=optax.adam(1e-3), seed=seed)


def flip(path):
    data = bytearray(path.read_bytes())
    for place in {0, len(data) // 3, len(data) // 2, len(data) - 1}:
        data[place] ^= 0x10
    path.write_bytes(bytes(data))


def flip_one(path):
    data = bytearray(path.read_bytes())
    data[2 * len(data) // 3] ^= 0x01
    path.write_bytes(bytes(data))


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def remove(path):
    path.unlink()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A directory with the checkpoints of steps 1, 2 and 3."""
    directory = tmp_path_factory.mktemp("whole") / "checkpoints"
    with Checkpoints(directory, keep=3) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(state_of(step), step=step, data_state={"at": step}, config={"seed": 1})
    return directory


@pytest.mark.parametrize("damage", [flip, flip_one, truncate, empty, remove])
def test_damage_to_any_file_is_found_or_does_no_harm(whole, tmp_path, damage):
    abstract = abstract_state_like(state_of(0))
    files = [path.relative_to(whole / "3") for path in sorted((whole / "3").rglob("*")) if path.is_file()]
    found = {}
    for number, file in enumerate(files):
        copy = tmp_path / str(number)
        shutil.copytree(whole / "3", copy)
        if not (copy / file).stat().st_size:
            continue
        damage(copy / file)
        try:
            state, run = read_checkpoint(copy, abstract)
        except DamagedCheckpointError as error:
            found[file.parts[0]] = str(error)
            continue
        assert run["data_state"] == {"at": 3}
        for ours, theirs in zip(jax.tree.leaves(state), jax.tree.leaves(state_of(3)), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert {"state", "run"} <= found.keys()
    assert all("it is damaged: remove it to go on from the one before" in message for message in found.values())


@pytest.mark.parametrize("lost", ["state", "run", "all", "half"])
def test_the_newest_whole_checkpoint_is_used_and_the_damaged_one_put_aside(whole, tmp_path, lost):
    directory = tmp_path / "checkpoints"
    shutil.copytree(whole, directory)
    newest = directory / "3"
    if lost == "half":
        files = sorted(path for path in newest.rglob("*") if path.is_file())
        for path in files[::2]:
            path.unlink()
    else:
        for part in ("state", "run") if lost == "all" else (lost,):
            shutil.rmtree(newest / part)
    said = []
    with Checkpoints(directory, keep=3) as checkpoints:
        restored = checkpoints.restore_newest(state_of(0), report=said.append)
        assert restored is not None
        assert restored.data_state == {"at": 2}
        np.testing.assert_array_equal(restored.state.params["layers"]["kernel"], state_of(2).params["layers"]["kernel"])
        assert len(said) == 1
        assert f"checkpoint {newest} cannot be read" in said[0]
        assert checkpoints.steps() == [1, 2]
        assert (directory / "3.damaged").is_dir()
        # The run comes to that step again, and it is written.
        checkpoints.save(state_of(9), step=3, data_state={"at": 9}, config={"seed": 1})
    with Checkpoints(directory, keep=3) as checkpoints:
        assert checkpoints.restore_newest(state_of(0), report=said.append).data_state == {"at": 9}
    assert len(said) == 1


def test_a_run_whose_every_checkpoint_is_damaged_does_not_begin_anew_unasked(whole, tmp_path):
    directory = tmp_path / "checkpoints"
    shutil.copytree(whole, directory)
    for step in (1, 2, 3):
        flip(directory / str(step) / "run" / "metadata")
    said = []
    with (
        Checkpoints(directory, keep=3) as checkpoints,
        pytest.raises(InputError, match=r"every checkpoint in .* is damaged \(3, 2, 1\); remove the directory to"),
    ):
        checkpoints.restore_newest(state_of(0), report=said.append)
    assert len(said) == 3
    assert sorted(path.name for path in directory.iterdir()) == ["1", "2", "3"]


def test_a_run_goes_on_from_before_the_damage_to_the_same_bits(
    launcher, tiny_run_words, whole_runs, require_same_bits, tmp_path
):
    words = [*tiny_run_words, f"--run_dir={tmp_path}", "--checkpoint.keep=3"]
    shutil.copytree(whole_runs(1), tmp_path, dirs_exist_ok=True)
    checkpoints = tmp_path / "checkpoints"
    largest = max((checkpoints / "8").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    flip_one(largest)
    run = launcher.start(words)
    launcher.finish([run])
    assert f"checkpoint {checkpoints / '8'} cannot be read" in " ".join(run.output.split())
    assert "Going on from step 6" in run.output
    require_same_bits(tmp_path, whole_runs(1))
