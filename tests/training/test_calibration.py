import numpy as np
import pytest

from atkd_jax.config_student import StudentConfig
from atkd_jax.errors import InputError
from atkd_jax.interop import load_model
from atkd_jax.models import Pruning, measure_importance, most_important
from atkd_jax.sharding import make_meshes, shard_batch
from atkd_jax.training.calibration import first_batches, measured_pruning, read_pruning, write_pruning


class Batches:
    def __init__(self, batches):
        self._batches, self.closed = iter(batches), False

    def __iter__(self):
        return self._batches

    def close(self):
        self.closed = True


@pytest.fixture
def batches():
    rng = np.random.default_rng(0)
    shape = (8, 12)
    return [
        {
            "tokens": rng.integers(3, 200, shape).astype(np.int32),
            "positions": np.broadcast_to(np.arange(12, dtype=np.int32), shape),
            "segment_ids": np.ones(shape, np.int32),
        }
        for _ in range(3)
    ]


def test_the_first_batches_are_read_and_no_more(batches):
    opened = Batches(batches)
    found = first_batches(lambda: opened, meshes=make_meshes(fsdp=2), count=2)
    assert len(found) == 2
    assert opened.closed
    np.testing.assert_array_equal(found[1]["tokens"], batches[1]["tokens"])
    assert next(opened._batches) is batches[2]


def test_what_is_kept_is_what_matters_most_over_all_batches(batches, tiny_teacher_directory):
    teacher, said = load_model(tiny_teacher_directory), []
    settings = StudentConfig(layers=2, layer_choice="block_influence", mlp_width=5, kv_heads=1)
    mesh = make_meshes().student
    placed = [shard_batch(mesh, batch) for batch in batches]
    pruning, facts = measured_pruning(settings, teacher=teacher, batches=placed, mesh=mesh, report=said.append)
    each = [measure_importance(teacher, **batch) for batch in batches]
    distance, units, heads = (np.sum([np.asarray(part[number]) for part in each], axis=0) for number in range(3))
    assert pruning.layers == most_important(distance, 2)
    assert pruning.mlp_units == tuple(most_important(units[layer], 5) for layer in pruning.layers)
    assert pruning.kv_heads == tuple(most_important(heads[layer], 1) for layer in pruning.layers)
    np.testing.assert_allclose(facts["block_influence"], distance / (3 * 8 * 12), atol=1e-5)
    assert "keeps 2 of 4 layers" in said[0]
    assert "5 of 64 MLP units; 1 of 2 key-value heads, chosen on 288 tokens" in said[0]


def test_what_was_chosen_is_kept(tmp_path):
    pruning = Pruning((0, 2), ((1, 2), (0, 3)), None)
    write_pruning(tmp_path, pruning, {"tokens": 7})
    assert read_pruning(tmp_path) == pruning
    (tmp_path / "pruning.json").write_text('{"layers": [0]}')
    with pytest.raises(InputError, match=r"pruning\.json must say which parts of the teacher"):
        read_pruning(tmp_path)
