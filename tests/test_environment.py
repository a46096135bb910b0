import json
import platform
import subprocess

from atkd_jax.environment import describe_environment, git_revision


def test_it_is_json_and_says_what_ran():
    found = json.loads(json.dumps(describe_environment(devices=["cpu:0"], command_line=["launch.py", "train"])))
    assert found["python"] == platform.python_version()
    assert found["devices"] == ["cpu:0"]
    assert found["command_line"] == ["launch.py", "train"]
    assert {"jax", "flax", "numpy"} <= found["packages"].keys()


def test_outside_a_checkout_there_is_no_revision(tmp_path):
    assert git_revision(tmp_path) is None


def test_a_checkout_gives_its_revision(tmp_path):
    def git(*words):
        return subprocess.run(
            ["git", "-C", str(tmp_path), "-c", "user.name=A", "-c", "user.email=a@b.example", *words],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    git("init")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-m", "Add a file")
    assert git_revision(tmp_path) == {"revision": git("rev-parse", "HEAD"), "changed_files": False}
    (tmp_path / "file").write_text("two")
    found = git_revision(tmp_path)
    assert found is not None
    assert found["changed_files"]


def test_without_git_there_is_no_revision(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_revision(tmp_path) is None
