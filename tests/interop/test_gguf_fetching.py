import os
from pathlib import Path

import numpy as np
import pytest

from atkd_jax.commands.main import main
from atkd_jax.errors import InputError
from atkd_jax.interop import fetch_model, gguf_fetching, load_model, load_tokenizer

from .conftest import make_llama, write_gguf


def nobody(*_, **__):
    raise AssertionError("a second call must ask nobody and convert nothing")


@pytest.fixture
def file(tmp_path: Path, tiny_tokenizer) -> Path:
    file = tmp_path / "tiny.Q8_0.gguf"
    model = make_llama(hidden_size=64, intermediate_size=96, head_dim=16, vocab_size=len(tiny_tokenizer))
    write_gguf(file, model, tiny_tokenizer)
    return file


def test_a_file_is_dequantised_once_and_again_when_it_has_changed(file: Path, tmp_path: Path, monkeypatch):
    lines = []
    directory = fetch_model(file, cache_dir=tmp_path / "cache", report=lines.append)
    assert directory.parent == tmp_path / "cache" / "models"
    assert load_model(directory).config.width == 64
    assert load_tokenizer(directory).eos_token == "<|e|>"
    assert lines == [f"Dequantising {file.name} to {directory}"]
    assert "dequantised to float32 from tiny.Q8_0.gguf" in (directory / "README.md").read_text()
    monkeypatch.setattr(gguf_fetching, "convert_gguf", nobody)
    assert fetch_model(str(file), cache_dir=tmp_path / "cache", report=nobody) == directory
    monkeypatch.undo()
    os.utime(file, (1, 1))
    assert fetch_model(file, cache_dir=tmp_path / "cache", report=print) != directory


def test_a_file_of_the_hub_comes_alone_and_once(file: Path, tmp_path: Path, monkeypatch):
    asked = []

    def download(hub_id: str, path: str, folder: Path, *, report) -> Path:
        asked.append((hub_id, path))
        (folder / "model.gguf").write_bytes(file.read_bytes())
        return folder / "model.gguf"

    monkeypatch.setattr(gguf_fetching, "hub_answers", lambda: True)
    monkeypatch.setattr(gguf_fetching, "download_file_from_hub", download)
    name = "org/tiny/sub/tiny.Q8_0.gguf"
    directory = fetch_model(name, cache_dir=tmp_path / "cache", report=print)
    assert asked == [("org/tiny", "sub/tiny.Q8_0.gguf")]
    assert directory.name == "org--tiny--sub--tiny.Q8_0.gguf"
    assert [each.name for each in directory.parent.iterdir()] == [directory.name]  # the file itself is gone
    assert "base_model: org/tiny" in (directory / "README.md").read_text()
    own = load_model(fetch_model(file, cache_dir=tmp_path / "cache", report=print))
    np.testing.assert_array_equal(load_model(directory).embedding[...], own.embedding[...])
    assert fetch_model(name, cache_dir=tmp_path / "cache", report=nobody) == directory


def test_without_a_hub_it_is_said_what_to_do(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(gguf_fetching, "hub_answers", lambda: False)
    with pytest.raises(
        InputError, match=r"org/tiny/a\.gguf is no file here, .* HF_HUB_OFFLINE; connect to it, or give a"
    ):
        fetch_model("org/tiny/a.gguf", cache_dir=tmp_path, report=print)


@pytest.mark.parametrize("name", ["missing.gguf", "folder/missing.gguf", "/missing/a/b.gguf", "org/../../b.gguf"])
def test_a_file_that_is_not_there_is_named(name: str, tmp_path: Path):
    with pytest.raises(
        InputError, match=f"'{name}' must be a GGUF file that exists, or one in a repository of the hub"
    ):
        fetch_model(name, cache_dir=tmp_path, report=print)


def test_a_file_that_cannot_be_read_leaves_nothing(file: Path, tmp_path: Path, capsys):
    file.write_bytes(file.read_bytes()[:500])
    assert main(["fetch", str(file), "--cache_dir", str(tmp_path / "cache")]) == 2
    assert "must be a whole GGUF file, but is truncated or corrupt" in capsys.readouterr().err
    assert list((tmp_path / "cache" / "models").iterdir()) == []
