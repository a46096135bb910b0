import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from atkd_jax.interop import config_sha256, fingerprints, load_tokenizer, tokenizer_sha256, weights_sha256

TENSORS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float32)}


def directory(path, tensors, *, files=1):
    path.mkdir()
    if files == 1:
        save_file(tensors, path / "model.safetensors")
        return path
    for number, (name, tensor) in enumerate(tensors.items()):
        save_file({name: tensor}, path / f"{number}.safetensors")
    index = {"weight_map": {name: f"{number}.safetensors" for number, name in enumerate(tensors)}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


def test_weights_have_the_same_hash_however_they_are_filed_and_another_one_when_they_change(tmp_path):
    found = weights_sha256(directory(tmp_path / "one", TENSORS))
    assert weights_sha256(directory(tmp_path / "two", TENSORS, files=2)) == found
    changed = TENSORS["a"].copy()
    changed[1, 2] = np.nextafter(changed[1, 2], 9)
    others = [
        TENSORS | {"a": changed},
        {"a": TENSORS["a"], "c": TENSORS["b"]},
        TENSORS | {"a": TENSORS["a"].reshape(3, 2)},
        TENSORS | {"b": TENSORS["b"].view(np.int32)},
    ]
    hashes = [weights_sha256(directory(tmp_path / f"other{n}", tensors)) for n, tensors in enumerate(others)]
    assert len({found, *hashes}) == 5


def test_a_tokenizer_keeps_its_hash_when_it_is_used_and_loaded_again(tiny_teacher_directory):
    tokenizer = load_tokenizer(tiny_teacher_directory)
    found = tokenizer_sha256(tokenizer)
    tokenizer(["a", "b c d"], padding=True, truncation=True, max_length=2)
    assert tokenizer_sha256(tokenizer) == found
    assert tokenizer_sha256(load_tokenizer(tiny_teacher_directory)) == found
    tokenizer.chat_template = "another"
    assert tokenizer_sha256(tokenizer) != found


def test_weights_are_read_once_until_a_file_changes(tmp_path, monkeypatch):
    model, memory = directory(tmp_path / "one", TENSORS), tmp_path / "memory"
    found = weights_sha256(model)
    assert weights_sha256(model, memory=memory) == found
    with monkeypatch.context() as patch:
        patch.setattr(fingerprints, "read_tensor", lambda *_: pytest.fail("the weights were read again"))
        assert weights_sha256(model, memory=memory) == found
    save_file(TENSORS | {"b": np.zeros(4, np.float32)}, model / "model.safetensors")
    assert weights_sha256(model, memory=memory) == weights_sha256(model) != found


def test_a_config_has_another_hash_when_its_arithmetic_changes(tiny_teacher_directory, tmp_path):
    given = json.loads((tiny_teacher_directory / "config.json").read_text())

    def hash_of(name, **changes):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(given | changes))
        return config_sha256(tmp_path / name)

    found = config_sha256(tiny_teacher_directory)
    assert hash_of("same", transformers_version="0.0", torch_dtype="float16") == found
    assert hash_of("theta", rope_theta=123.0, rope_parameters={"rope_type": "default", "rope_theta": 123.0}) != found
    assert hash_of("eps", rms_norm_eps=0.25) != found
