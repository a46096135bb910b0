import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from atkd_jax.errors import InputError
from atkd_jax.interop import fetch_description, fetch_model, hub, load_model, load_tokenizer, read_config
from atkd_jax.interop.hub import download_file_from_hub, download_from_hub, find_in_hub_cache, hub_answers

from .conftest import make_llama

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """A hub that holds one model, org/tiny, speaks the hub's protocol and notes what it is asked for."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = files
        self.asked: list[str] = []
        self.broken: set[str] = set()
        self.gated = False


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self):
        path = self.path.partition("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        if path == "/":
            return self.give(b"")
        if self.server.gated and "/resolve/" not in path:
            return self.give(b"{}", 403, {"X-Error-Code": "GatedRepo"})
        if path.startswith("/api/models/org/tiny/tree/"):
            entries = [
                {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for name, content in self.server.files.items()
            ]
            return self.give(json.dumps(entries).encode(), kind="application/json")
        if path.startswith("/api/models/org/tiny"):
            siblings = [{"rfilename": name} for name in self.server.files]
            info = {"id": "org/tiny", "sha": COMMIT, "private": False, "downloads": 0, "tags": [], "siblings": siblings}
            return self.give(json.dumps(info).encode(), kind="application/json")
        name = path.removeprefix(f"/org/tiny/resolve/{COMMIT}/")
        if name in self.server.files and name not in self.server.broken:
            content = self.server.files[name]
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
            return self.give(content, headers=headers)
        return self.give(b"{}", 404, {"X-Error-Code": "EntryNotFound" if "tiny" in path else "RepoNotFound"})

    do_HEAD = do_GET  # noqa: N815

    def give(self, content: bytes, status: int = 200, headers: dict | None = None, kind: str = "text/plain") -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": kind, "Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def files(tmp_path: Path, tiny_tokenizer) -> dict[str, bytes]:
    directory = tmp_path / "source"
    make_llama().save_pretrained(directory)
    tiny_tokenizer.save_pretrained(directory)
    wanted = {file.name: file.read_bytes() for file in directory.iterdir()}
    unwanted = {
        "pytorch_model.bin": b"\x80\x04.",
        "modeling_tiny.py": b"raise SystemExit",
        "onnx/model.safetensors": b"another form",
        "onnx/config.json": b"{}",
        "consolidated.safetensors": b"another form",
        "training_args.bin": b"\x80\x04.",
    }
    return wanted | unwanted


@pytest.fixture
def server(files, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub(files)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    yield server
    server.shutdown()
    server.server_close()


def test_a_model_comes_without_pickles_without_code_and_once(server: Hub, tmp_path: Path):
    assert hub_answers()
    target = tmp_path / "models" / "org--tiny"
    lines = []
    download_from_hub("org/tiny", target, report=lines.append)
    assert {each.name for each in target.iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert [each.name for each in target.parent.iterdir()] == ["org--tiny"]
    assert not [line for line in server.asked if "onnx" in line or line.endswith((".bin", ".py"))]
    assert load_model(target).config.width == 24
    assert load_tokenizer(target).chat_template
    assert len(lines) == 1
    assert lines[0].startswith("Downloading org/tiny from http://127.0.0.1")


def test_one_file_of_a_repository_comes_alone(server: Hub, tmp_path: Path):
    server.files["sub/tiny.gguf"] = b"GGUF"
    found = download_file_from_hub("org/tiny", "sub/tiny.gguf", tmp_path / "folder", report=print)
    assert found == tmp_path / "folder" / "sub" / "tiny.gguf"
    assert found.read_bytes() == b"GGUF"
    assert not [line for line in server.asked if "model.safetensors" in line]
    with pytest.raises(InputError, match=r"org/tiny at http.* holds no file absent\.gguf; correct its name"):
        download_file_from_hub("org/tiny", "absent.gguf", tmp_path / "folder", report=print)


def test_an_interrupted_download_goes_on_and_never_passes_for_whole(server: Hub, tmp_path: Path):
    target = tmp_path / "models" / "org--tiny"
    server.broken = {"tokenizer.json"}
    with pytest.raises(InputError, match=r"org/tiny could not be downloaded from .*; run the same again"):
        download_from_hub("org/tiny", target, report=print)
    assert not target.exists()
    server.broken = set()
    server.asked.clear()
    download_from_hub("org/tiny", target, report=print)
    assert (target / "tokenizer.json").is_file()
    assert not [line for line in server.asked if line.startswith("GET") and line.endswith("model.safetensors")]


def test_a_model_that_is_not_there_is_named(server: Hub, tmp_path: Path):
    with pytest.raises(InputError, match=r"org/huge is no public model at http.*; correct the name, or set HF_TOKEN"):
        download_from_hub("org/huge", tmp_path / "x", report=print)


def test_a_gated_model_is_named(server: Hub, tmp_path: Path):
    server.gated = True
    with pytest.raises(InputError, match="org/tiny may be downloaded only by those who accepted its terms; accept"):
        download_from_hub("org/tiny", tmp_path / "x", report=print)


def test_a_model_of_pickles_is_refused(server: Hub, tmp_path: Path):
    del server.files["model.safetensors"]
    with pytest.raises(InputError, match="for pickle files are never read"):
        download_from_hub("org/tiny", tmp_path / "x", report=print)
    assert not (tmp_path / "x").exists()


def test_offline_means_not_even_asking(server: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert not hub_answers()
    assert server.asked == []


def test_a_hub_that_refuses_the_connection_does_not_answer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free.getsockname()[1]}")
        assert not hub_answers()


def test_a_hub_that_says_nothing_costs_less_than_five_seconds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "_PROBE_SECONDS", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        assert not hub_answers()
        assert time.monotonic() - start < 0.9


def test_a_name_look_up_that_hangs_costs_less_than_five_seconds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert hub._PROBE_SECONDS < 5
    monkeypatch.setattr(hub, "_PROBE_SECONDS", 0.3)
    monkeypatch.setattr(hub, "_answers", lambda endpoint: time.sleep(3) or True)
    start = time.monotonic()
    assert not hub_answers()
    assert time.monotonic() - start < 0.9


def test_a_hub_in_trouble_does_not_answer(server: Hub, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Answer, "do_HEAD", lambda self: self.give(b"", 503))
    assert not hub_answers()
    monkeypatch.setattr(Answer, "do_HEAD", lambda self: self.give(b"", 404))
    assert hub_answers()


def test_what_another_program_downloaded_is_found(files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert find_in_hub_cache("org/tiny") is None
    repository = tmp_path / "cache" / "models--org--tiny"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    (snapshot / "config.json").write_bytes(files["config.json"])
    assert find_in_hub_cache("org/tiny") is None
    assert find_in_hub_cache("org/tiny", weights=False) == snapshot
    (snapshot / "model.safetensors").write_bytes(files["model.safetensors"])
    assert find_in_hub_cache("org/tiny") == snapshot


def test_a_description_comes_without_the_weights_and_once(server: Hub, files, tmp_path: Path):
    lines = []
    found = fetch_description("org/tiny", cache_dir=tmp_path, report=lines.append)
    assert found == tmp_path / "descriptions" / "org--tiny"
    assert not list(found.glob("*.safetensors"))
    assert read_config(found).num_layers == 3
    assert len(load_tokenizer(found)) > 3
    assert lines == [f"Downloading config and tokenizer of org/tiny from {constants.ENDPOINT} to {found}"]
    server.asked.clear()
    assert fetch_description("org/tiny", cache_dir=tmp_path, report=lines.append) == found
    assert not server.asked
    # A model that is here whole serves as well.
    whole = fetch_model("org/tiny", cache_dir=tmp_path, report=lines.append)
    assert fetch_description("org/tiny", cache_dir=tmp_path, report=lines.append) == whole
