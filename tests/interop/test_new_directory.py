import errno
import shutil
from pathlib import Path

import pytest

from atkd_jax.errors import InputError
from atkd_jax.interop.new_directory import new_directory, require_space


def write_and_fail(working: Path, error: Exception) -> None:
    (working / "config.json").write_text("new")
    raise error


def test_the_directory_appears_when_the_block_ends(tmp_path: Path):
    target = tmp_path / "a" / "model"
    with new_directory(target) as working:
        (working / "config.json").write_text("{}")
        assert not target.exists()
        assert working.parent == target.parent
    assert [each.name for each in target.parent.iterdir()] == ["model"]
    assert (target / "config.json").read_text() == "{}"
    assert target.stat().st_mode & 0o777 == 0o755


def test_nothing_is_left_of_a_block_that_fails(tmp_path: Path):
    with pytest.raises(RuntimeError, match="no"), new_directory(tmp_path / "model") as working:
        write_and_fail(working, RuntimeError("no"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EDQUOT, "Quota exceeded"), "quota is used up"),
        (PermissionError(errno.EACCES, "Permission denied"), "not permitted"),
        (Exception("No space left on device (os error 28)"), "the disk is full"),
    ],
)
def test_what_the_disk_refuses_is_said_in_one_sentence(tmp_path: Path, error: Exception, why: str):
    words = rf"model cannot be written, because .*{why}.*; nothing was left behind"
    with pytest.raises(InputError, match=words), new_directory(tmp_path / "model") as working:
        write_and_fail(working, error)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_system_stay_what_they_are(tmp_path: Path):
    with pytest.raises(FileNotFoundError), new_directory(tmp_path / "model"):
        (tmp_path / "nothing").read_text()


def test_the_real_full_disk_of_the_system_is_recognised(tmp_path: Path, tiny_tokenizer):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(InputError, match="disk is full"), new_directory(tmp_path / "a"):
        Path("/dev/full").write_text("text")
    with pytest.raises(InputError, match="disk is full"), new_directory(tmp_path / "b"):
        tiny_tokenizer.backend_tokenizer.save("/dev/full")


def test_a_model_directory_is_replaced_when_that_is_asked_for(tmp_path: Path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "config.json").write_text("old")
    (target / "old.safetensors").write_text("old")
    with pytest.raises(InputError, match="must not exist yet"), new_directory(target):
        pass
    with new_directory(target, replace=True) as working:
        (working / "config.json").write_text("new")
    assert {each.name: each.read_text() for each in target.iterdir()} == {"config.json": "new"}
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def test_a_failure_leaves_the_old_directory_as_it_was(tmp_path: Path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "config.json").write_text("old")
    with pytest.raises(InputError, match="disk is full"), new_directory(target, replace=True) as working:
        write_and_fail(working, OSError(errno.ENOSPC, "No space left on device"))
    assert (target / "config.json").read_text() == "old"


def test_a_directory_of_other_things_is_never_replaced(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years of work")
    words = r"holds no config\.json, so it is no model directory"
    with pytest.raises(InputError, match=words), new_directory(tmp_path, replace=True):
        pass
    with pytest.raises(InputError, match=r"no model directory"), new_directory(tmp_path / "thesis.tex", replace=True):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_file_on_the_way_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a part of its path is a file"), new_directory(tmp_path / "file" / "model"):
        pass


def test_too_small_a_disk_is_said_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1_000_000_000))
    require_space(tmp_path, 1_000_000_000)
    with pytest.raises(InputError, match=r"needs 2,500\.0 MB of free disk .* but has 1,000\.0 MB; free some"):
        require_space(tmp_path, 2_500_000_000)
