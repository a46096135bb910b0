"""What two runs are compared by."""

import json

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath
from metric_lines import without_times

from atkd_jax.training.metrics import read_metrics


def record(run_dir, step):
    """The record in a checkpoint: digests of every array, the data position, the config."""
    return json.loads((run_dir / "checkpoints" / str(step) / "run" / "metadata").read_text())


@pytest.fixture
def require_same_bits():
    """Asserts that two runs ended with the same bits: all arrays of the state, next batch, metrics of all steps."""

    def require(one, other, *, step=8):
        first, second = record(one, step), record(other, step)
        assert first["digests"]["arrays"] == second["digests"]["arrays"]
        assert len(first["digests"]["arrays"]) > 20
        assert first["data_state"] == second["data_state"]
        assert without_times(read_metrics(one)) == without_times(read_metrics(other))

    return require


def weights(run_dir, step):
    """The student's parameters in a checkpoint, by name, on whatever devices they were written."""
    handler, place = ocp.PyTreeCheckpointHandler(), epath.Path(run_dir / "checkpoints" / str(step) / "state")
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(place).tree)
    restored = handler.restore(place, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(restored["params"])}


@pytest.fixture
def require_same_curve():
    """Asserts that two runs' losses and weights are equal within 1e-5, and that they saw the same data."""

    def require(one, other, *, step=8):
        assert record(one, step)["data_state"] == record(other, step)["data_state"]
        ours, theirs = read_metrics(one), read_metrics(other)
        assert [line["step"] for line in ours] == [line["step"] for line in theirs] == list(range(1, step + 1))
        np.testing.assert_allclose([line["loss"] for line in ours], [line["loss"] for line in theirs], rtol=1e-5)
        mine, others = weights(one, step), weights(other, step)
        assert mine.keys() == others.keys()
        assert len(mine) > 8
        for name, leaf in mine.items():
            largest = np.abs(others[name]).max()
            np.testing.assert_allclose(leaf, others[name], rtol=1e-5, atol=1e-5 * largest, err_msg=name)
        for name in ("counted_tokens", "tokens", "data/epoch", "data/examples", "data/fill"):
            assert [line[name] for line in ours] == [line[name] for line in theirs]

    return require


@pytest.fixture(scope="session")
def whole_runs(tmp_path_factory, _session_launcher, tiny_run_words):
    """Makes, once for each shape, the run that nothing disturbed."""
    made = {}

    def make(processes=1, devices=1, words=()):
        key = (processes, devices, tuple(words))
        if key not in made:
            run_dir = tmp_path_factory.mktemp("whole") / "run"
            all_words = [*tiny_run_words, *words, f"--run_dir={run_dir}"]
            if processes == 1:
                runs = [_session_launcher.start(all_words, devices=devices)]
            else:
                runs = _session_launcher.start_many(all_words, processes, devices=devices)
            _session_launcher.finish(runs)
            made[key] = run_dir
        return made[key]

    return make
