import http.client
import http.server
import threading
import time
from collections.abc import Iterator
from functools import partial

import pytest
from fault_proxy import Faults, fault_proxy

BODY = bytes(range(256)) * 1000


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers GET with BODY, PUT with the number of bytes that came."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(BODY)

    def do_HEAD(self) -> None:
        self.answer(BODY)

    def do_PUT(self) -> None:
        self.answer(str(len(self.rfile.read(int(self.headers["Content-Length"])))).encode())

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *values: object) -> None:
        pass


@pytest.fixture
def server_port() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def ask(port: int, method: str = "GET", body: bytes | None = None, timeout_s: float = 10.0) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request(method, "/thing", body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def outcome(port: int) -> str:
    try:
        return str(ask(port, timeout_s=0.3)[0])
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__


def test_without_faults_everything_passes_through(server_port: int) -> None:
    with fault_proxy(server_port, Faults()) as proxy:
        assert ask(proxy.port) == (200, BODY)
        assert ask(proxy.port, "HEAD") == (200, b"")
        assert ask(proxy.port, "PUT", BODY) == (200, str(len(BODY)).encode())
    assert proxy.counts == {"requests": 3}
    assert proxy.lines == ["GET /thing", "HEAD /thing", "PUT /thing"]


def test_a_cut_answer_ends_in_the_middle(server_port: int) -> None:
    with fault_proxy(server_port, Faults(cut=1)) as proxy:
        with pytest.raises(http.client.IncompleteRead) as error:
            ask(proxy.port)
        assert error.value.partial == BODY[: len(BODY) // 2]
    assert proxy.counts == {"requests": 1, "cut": 1}


def test_a_cut_upload_is_reset(server_port: int) -> None:
    with fault_proxy(server_port, Faults(cut=1)) as proxy, pytest.raises((OSError, http.client.HTTPException)):
        ask(proxy.port, "PUT", BODY)


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD"])
def test_a_refused_request_is_told_to_slow_down(server_port: int, method: str) -> None:
    with fault_proxy(server_port, Faults(refuse=1)) as proxy:
        status, body = ask(proxy.port, method, BODY if method == "PUT" else None)
    assert status == 503 and (b"SlowDown" in body) == (method != "HEAD")


def test_a_hanging_request_is_never_answered_and_ends_with_the_proxy(server_port: int) -> None:
    with fault_proxy(server_port, Faults(hang=1)) as proxy, pytest.raises(TimeoutError):
        ask(proxy.port, timeout_s=0.3)
    assert proxy.counts == {"requests": 1, "hang": 1}


def test_the_seed_decides_which_requests_are_spoiled(server_port: int) -> None:
    faults = Faults(cut=0.2, refuse=0.2, hang=0.08)
    runs = []
    for seed in (1, 1, 2):
        with fault_proxy(server_port, faults, seed=seed) as proxy:
            runs.append([outcome(proxy.port) for _ in range(30)])
            counts = proxy.counts
        assert counts["requests"] == 30
        kinds = {"cut": "IncompleteRead", "refuse": "503", "hang": "TimeoutError"}
        assert {name: counts[name] for name in kinds} == {name: runs[-1].count(kind) for name, kind in kinds.items()}
        assert counts["cut"] and counts["refuse"] and 5 < runs[-1].count("200") < 30
    assert runs[0] == runs[1] != runs[2]


def test_one_request_can_be_picked_and_slowed(server_port: int) -> None:
    with fault_proxy(server_port, Faults(first="refuse", only="GET", bytes_per_s=1_000_000)) as proxy:
        assert ask(proxy.port, "HEAD")[0] == 200
        assert ask(proxy.port)[0] == 503
        started_s = time.monotonic()
        assert ask(proxy.port) == (200, BODY)
        assert time.monotonic() - started_s > 0.2  # 256 kB at 1 MB/s
