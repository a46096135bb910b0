import errno
import subprocess
import sys
import types
from pathlib import Path

import pytest

from atkd_jax.commands import main as main_module
from atkd_jax.commands.main import main
from atkd_jax.commands.verbs import VERBS
from atkd_jax.errors import InputError

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def verb(monkeypatch):
    """Replaces the work of `fetch` by a function."""

    def install(run):
        module = types.SimpleNamespace(run=run)
        monkeypatch.setattr(main_module.importlib, "import_module", lambda name: module)

    return install


def raising(error):
    def run(options):
        raise error

    return run


def test_help_lists_every_verb(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out and verb.summary in out for name, verb in VERBS.items())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "launch.py: a verb is needed: fetch, train, "),
        (["trian"], "launch.py: unknown verb trian; the nearest is train.\n"),
        (["frobnicate"], "launch.py: unknown verb frobnicate; the verbs are fetch, "),
        (["fetch", "--config", "/absent.yaml"], "/absent.yaml: there is no such config file"),
        (["fetch", "--seed", "x"], "command line: seed must be a whole number of at least 0, but 'x' came.\n"),
    ],
)
def test_bad_words_are_one_sentence_and_code_2(words, sentence, capsys):
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(sentence)
    assert captured.err.count("\n") == 1
    assert not captured.out


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (InputError("data.jsonl, line 3: this is not JSON."), "data.jsonl, line 3: this is not JSON.\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "runs/a/x"),
            "launch.py: the disk is full: runs/a/x could not",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "launch.py: the disk is full: a file could not"),
        (ValueError("Error writing: No space left on device (os error 28)"), "launch.py: the disk is full: a file"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/root/x"),
            "launch.py: permission denied: /root/x may not",
        ),
    ],
)
def test_bad_input_and_bad_disks_are_one_sentence(error, sentence, verb, capsys):
    verb(raising(error))
    assert main(["fetch"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(sentence)
    assert captured.err.count("\n") == 1


def test_a_full_disk_is_found_behind_a_wrapper(verb, capsys):
    error = RuntimeError("could not save")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device", "part")
    verb(raising(error))
    assert main(["fetch"]) == 2
    assert "the disk is full: part" in capsys.readouterr().err


def test_a_fault_of_the_program_keeps_its_traceback(verb):
    verb(raising(ValueError("shapes differ")))
    with pytest.raises(ValueError, match="shapes differ"):
        main(["fetch"])


def test_ctrl_c_ends_quietly_with_130(verb, capsys):
    verb(raising(KeyboardInterrupt()))
    assert main(["fetch"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_verb_that_returns_is_a_success(verb):
    seen = []
    verb(seen.append)
    assert main(["fetch", "--seed", "3"]) == 0
    assert seen[0].settings.seed == 3


def test_help_does_not_wait_for_jax():
    every = [["--help"], *([verb, "--help"] for verb in VERBS)]
    heavy = ("jax", "flax", "transformers", "orbax", "grain", "torch", "tensorflow_datasets")
    code = f"""
import sys
from atkd_jax.commands.main import main
for words in {every!r}:
    try:
        main(words)
    except SystemExit as stop:
        assert stop.code == 0, words
    found = [name for name in {heavy!r} if name in sys.modules]
    assert not found, (words, found)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_launch_is_the_entry_point():
    done = subprocess.run([sys.executable, "launch.py", "evalute"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "launch.py: unknown verb evalute; the nearest is evaluate.\n"


def test_a_reader_that_has_seen_enough_is_no_error():
    done = subprocess.run(
        f"{sys.executable} launch.py fetch --help | true", shell=True, cwd=ROOT, capture_output=True, text=True
    )
    assert not done.stderr
