"""A server of OpenAI's HTTP interface on this machine, which fails as it is told to; a pytest plugin."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class OpenAIServer:
    """Answers `POST` by `answer(path, body)`, after the faults that wait in `faults`, one a request.

    A fault is a status, `(status, headers)`, `"hang up"`, `"half"` (the body breaks off), `"html"` or `"silent"`
    (nothing comes for `silence_seconds`).
    """

    def __init__(self):
        self.answer = lambda path, body: {"path": path, "echo": body}
        self.faults, self.requests, self.keys = [], [], []
        self.silence_seconds = 2.0
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()
        self._closed = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                owner.handle(self, body)

            def do_GET(self):
                owner.handle(self, None)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def handle(self, handler, body):
        with self.lock:
            self.requests.append((handler.path, body))
            self.keys.append(handler.headers.get("Authorization"))
            fault = self.faults.pop(0) if self.faults else None
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            self._respond(handler, body, fault)
        finally:
            with self.lock:
                self.in_flight -= 1

    def _respond(self, handler, body, fault):
        if fault == "silent":
            self._closed.wait(self.silence_seconds)
        if fault in ("hang up", "silent"):
            handler.close_connection = True
            return
        status, headers = fault if isinstance(fault, tuple) else (fault if isinstance(fault, int) else 200, {})
        if status == 200 and fault != "html":
            content = json.dumps(self.answer(handler.path.removeprefix("/v1/"), body)).encode()
        else:
            content = b"<html>of the key " + (handler.headers.get("Authorization") or "").encode() + b"</html>"
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2] if fault == "half" else content)
        handler.close_connection = handler.close_connection or fault == "half"

    def close(self):
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def openai_server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = OpenAIServer()
    yield server
    server.close()
