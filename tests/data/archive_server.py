"""An HTTP server on this machine that serves files as well, or as badly, as a test wants."""

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Plan = Callable[[int], str]
"""What to do with a request, by its number from 0: one of the words in `_Handler.do_GET`."""


class ArchiveServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, files: Mapping[str, bytes], plan: Plan, *, bytes_per_s: float = 1e12) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.plan, self.bytes_per_s = files, plan, bytes_per_s
        self.lock = threading.Lock()
        self.requests: list[str] = []
        self.num_sent = 0
        self.ended = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients that are killed, and connections that are cut on purpose


class _Handler(BaseHTTPRequestHandler):
    server: ArchiveServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        server = self.server
        asked = self.headers.get("Range", "")
        with server.lock:
            action = server.plan(len(server.requests))
            server.requests.append(f"{self.path} {asked}".strip())
        content = server.files.get(self.path.lstrip("/"))
        if action.isdigit() or content is None:
            self.send_response(int(action) if content is not None else 404)
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        if action == "hang":
            server.ended.wait(20)
            return None
        if action == "wrong":
            content = bytes(byte ^ 1 for byte in content)
        if action == "long":
            content += b"more"
        self._send(content, asked if "whole" not in action else "", action)
        return None

    def _send(self, content: bytes, asked: str, action: str) -> None:
        first, last = 0, len(content) - 1
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", asked)
        if span:
            first, last = int(span[1]), min(int(span[2]), last)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
        else:
            self.send_response(200)
        body = content[first : last + 1]
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if "cut" in action or action == "stall":
            body = body[: len(body) // 2]
        size = 1 if action == "drip" else 1 << 14
        for start in range(0, len(body), size):
            piece = body[start : start + size]
            self.wfile.write(piece)
            with self.server.lock:
                self.server.num_sent += len(piece)
            time.sleep(0.05 if action == "drip" else len(piece) / self.server.bytes_per_s)
        if action == "stall":
            self.wfile.flush()
            self.server.ended.wait(20)
        self.close_connection = True


@contextmanager
def serving(files: Mapping[str, bytes], plan: Plan = lambda _: "ok", **knobs: float) -> Iterator[ArchiveServer]:
    """The server, in a thread."""
    server = ArchiveServer(files, plan, **knobs)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
