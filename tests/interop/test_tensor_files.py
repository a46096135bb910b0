import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from atkd_jax.errors import InputError
from atkd_jax.interop.tensor_files import INDEX_NAME, SINGLE_NAME, list_tensors, read_json, read_tensor

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.arange(4).astype(ml_dtypes.bfloat16),
    "c": np.ones((1, 2), np.float16),
}


def write_shards(directory: Path) -> None:
    weight_map = {}
    for name, tensor in TENSORS.items():
        save_file({name: tensor}, directory / f"model-{name}.safetensors")
        weight_map[name] = f"model-{name}.safetensors"
    (directory / INDEX_NAME).write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("sharded", [False, True])
def test_what_safetensors_wrote_is_listed_and_read(tmp_path: Path, sharded: bool):
    if sharded:
        write_shards(tmp_path)
    else:
        save_file(TENSORS, tmp_path / SINGLE_NAME)
    stored = list_tensors(tmp_path)
    assert stored.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert stored[name].shape == tensor.shape
        read = read_tensor(name, stored[name])
        assert read.dtype == tensor.dtype
        np.testing.assert_array_equal(read, tensor)
    assert [stored[name].kind for name in "abc"] == ["F32", "BF16", "F16"]


@pytest.mark.parametrize("kept_bytes", [0, 5, 40, -1])
def test_a_truncated_file_is_named(tmp_path: Path, kept_bytes: int):
    file = tmp_path / SINGLE_NAME
    save_file(TENSORS, file)
    file.write_bytes(file.read_bytes()[:kept_bytes])
    with pytest.raises(InputError, match=r"model\.safetensors must be a whole safetensors file, but is truncated or"):
        list_tensors(tmp_path)


def test_a_corrupt_file_is_named(tmp_path: Path):
    write_shards(tmp_path)
    (tmp_path / "model-b.safetensors").write_bytes(b"corrupt" * 100)
    with pytest.raises(InputError, match=r"model-b\.safetensors must be a whole safetensors file"):
        list_tensors(tmp_path)


def test_a_missing_shard_and_a_tensor_missing_from_its_shard_are_named(tmp_path: Path):
    write_shards(tmp_path)
    save_file({"other": TENSORS["a"]}, tmp_path / "model-c.safetensors")
    with pytest.raises(InputError, match=r"model-c\.safetensors must hold the tensor c, as .*index\.json says"):
        list_tensors(tmp_path)
    (tmp_path / "model-c.safetensors").unlink()
    with pytest.raises(InputError, match=r"model-c\.safetensors belongs to the model but is missing"):
        list_tensors(tmp_path)


def test_a_directory_of_pickles_is_refused(tmp_path: Path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(InputError, match="holds neither; convert the weights to safetensors, for pickle files are nev"):
        list_tensors(tmp_path)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({"metadata": {}}, "must hold a weight_map"),
        ({"weight_map": {"a": 3}}, "must hold a weight_map"),
        ({"weight_map": {"a": "../../etc/passwd"}}, "must name files beside it, but names"),
    ],
)
def test_a_bad_index_is_refused(tmp_path: Path, index: dict, words: str):
    (tmp_path / INDEX_NAME).write_text(json.dumps(index))
    with pytest.raises(InputError, match=words):
        list_tensors(tmp_path)


def test_json_files_are_named_when_they_cannot_be_read(tmp_path: Path):
    with pytest.raises(InputError, match=r"must hold config\.json, but does not"):
        read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text('{"a": ')
    with pytest.raises(InputError, match=r"config\.json must be readable JSON, but is not"):
        read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(InputError, match=r"config\.json must be readable JSON"):
        read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(InputError, match=r"must hold a JSON object, but holds a list"):
        read_json(tmp_path / "config.json")
