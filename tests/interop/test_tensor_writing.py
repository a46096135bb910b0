import json
import shutil
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch_file

from atkd_jax.errors import InputError
from atkd_jax.interop.tensor_files import INDEX_NAME, SINGLE_NAME, list_tensors
from atkd_jax.interop.tensor_writing import PlannedTensor, write_tensors

ARRAYS = {
    name: np.random.default_rng(number).normal(size=shape).astype(np.float32)
    for number, (name, shape) in enumerate({"a": (5, 3), "bb": (7,), "ccc": (2, 3, 4), "d": (1,)}.items())
}
PLAN = [PlannedTensor(name, array.shape, lambda array=array: array) for name, array in ARRAYS.items()]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_safetensors_reads_what_was_written(tmp_path: Path, dtype):
    write_tensors(tmp_path, PLAN, dtype=np.dtype(dtype), max_shard_bytes=10_000)
    assert [each.name for each in tmp_path.iterdir()] == [SINGLE_NAME]
    read = load_file(tmp_path / SINGLE_NAME)
    assert read.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert read[name].dtype == np.dtype(dtype)
        np.testing.assert_array_equal(read[name], array.astype(dtype))


def test_pytorch_rounds_to_bfloat16_alike(tmp_path: Path):
    write_tensors(tmp_path, PLAN, dtype=np.dtype(ml_dtypes.bfloat16), max_shard_bytes=10_000)
    for name, tensor in load_torch_file(tmp_path / SINGLE_NAME).items():
        assert torch.equal(tensor, torch.from_numpy(ARRAYS[name]).bfloat16())


def test_shards_stay_below_the_size_and_the_index_finds_every_tensor(tmp_path: Path):
    write_tensors(tmp_path, PLAN, dtype=np.dtype(np.float32), max_shard_bytes=96)
    index = json.loads((tmp_path / INDEX_NAME).read_text())
    assert index["weight_map"] == {
        "a": "model-00001-of-00003.safetensors",
        "bb": "model-00001-of-00003.safetensors",
        "ccc": "model-00002-of-00003.safetensors",
        "d": "model-00003-of-00003.safetensors",
    }
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in ARRAYS.values())
    stored = list_tensors(tmp_path)
    assert {name: tensor.shape for name, tensor in stored.items()} == {n: a.shape for n, a in ARRAYS.items()}


def test_a_tensor_larger_than_a_shard_gets_one_of_its_own(tmp_path: Path):
    write_tensors(tmp_path, PLAN, dtype=np.dtype(np.float32), max_shard_bytes=1)
    assert len(list(tmp_path.glob("*.safetensors"))) == len(PLAN)


def test_strided_arrays_are_written_in_their_own_order(tmp_path: Path):
    array = ARRAYS["a"]
    write_tensors(tmp_path, [PlannedTensor("t", (3, 5), lambda: array.T)], dtype=array.dtype, max_shard_bytes=1000)
    np.testing.assert_array_equal(load_file(tmp_path / SINGLE_NAME)["t"], array.T)


def test_one_tensor_is_in_memory_at_a_time(tmp_path: Path):
    shape = (1000, 500)
    plan = [PlannedTensor(str(number), shape, lambda: np.zeros(shape, np.float32)) for number in range(5)]
    tracemalloc.start()
    write_tensors(tmp_path, plan, dtype=np.dtype(np.float32), max_shard_bytes=1_000_000_000)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 2_000_000 <= peak_bytes < 2_500_000


def test_wrong_types_and_shapes_are_faults_of_the_program(tmp_path: Path):
    with pytest.raises(ValueError, match="dtype must be float32, float16 or bfloat16, got int8"):
        write_tensors(tmp_path, PLAN, dtype=np.dtype(np.int8), max_shard_bytes=1000)
    plan = [PlannedTensor("t", (2, 2), lambda: np.zeros(4, np.float32))]
    with pytest.raises(ValueError, match="was planned as"):
        write_tensors(tmp_path, plan, dtype=np.dtype(np.float32), max_shard_bytes=1000)


def test_too_small_a_disk_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(InputError, match="MB of free disk"):
        write_tensors(tmp_path, PLAN, dtype=np.dtype(np.float32), max_shard_bytes=1000)
    assert list(tmp_path.iterdir()) == []
