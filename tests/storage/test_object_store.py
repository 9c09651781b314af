import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from jasper_ray.errors import StorageError
from jasper_ray.storage import clients, object_store

REPOSITORY = Path(__file__).parents[2]


class FaultyS3(ThreadingHTTPServer):
    """Answers every request with one fault: a status and an S3 error code, or `reset`."""

    fault = ""

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class FaultyHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyS3

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.close_connection = True
        if self.server.fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            return
        status, code = self.server.fault.split()
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>sorry</Message></Error>".encode()
        self.send_response(int(status))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer

    def log_message(self, format: str, *values: object) -> None:
        pass


@pytest.fixture
def faulty_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """A store that fails, with pauses cut to nothing."""
    server = FaultyS3(("127.0.0.1", 0), FaultyHandler)
    threading.Thread(target=partial(server.serve_forever, poll_interval=0.01), daemon=True).start()
    variables = {
        "AWS_ENDPOINT_URL": server.endpoint,
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "us-east-1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("JASPER_STORE_FIRST_PAUSE_S", "0")
    monkeypatch.setattr(clients, "CLIENT_ATTEMPTS", 1)
    clients._s3.cache_clear()
    yield server
    clients._s3.cache_clear()
    server.shutdown()
    server.server_close()


@pytest.fixture(params=["local", "s3", "gs"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same tests on a local folder, on a real S3 server and on an emulator of Google's store."""
    if request.param == "local":
        return str(tmp_path / "root")
    return str(request.getfixturevalue(f"{request.param}_bucket")) + f"/{tmp_path.name}"


def test_what_was_written_is_read_listed_and_deleted(root: str) -> None:
    uri = object_store.join(root, "a/b", "c.txt")
    assert not object_store.exists(uri)
    object_store.write_bytes(uri, b"one")
    object_store.write_bytes(uri, b"two")
    object_store.write_bytes(object_store.join(root, "a/d.txt"), b"")
    assert object_store.read_bytes(uri) == b"two"
    assert object_store.exists(uri) and not object_store.exists(object_store.join(root, "a"))
    assert object_store.list_files(root) == ["a/b/c.txt", "a/d.txt"]
    assert object_store.list_folders(object_store.join(root, "a")) == ["b"]
    object_store.delete_file(uri)
    object_store.delete_file(uri)  # a second time is no error
    assert object_store.list_files(root) == ["a/d.txt"]
    object_store.delete_tree(root)
    assert object_store.list_files(root) == [] and object_store.list_folders(root) == []


def test_a_compressed_file_stays_as_it_is(root: str) -> None:
    for name in ("a.gz", "b.bz2", "c.zst"):
        object_store.write_bytes(object_store.join(root, name), b"as it is")
        assert object_store.read_bytes(object_store.join(root, name)) == b"as it is"


def test_a_missing_file_is_named(root: str) -> None:
    with pytest.raises(StorageError, match=r"nothing\.here"):
        object_store.read_bytes(object_store.join(root, "nothing.here"))


def test_folders_go_up_and_down_whole(root: str, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    content = {"x.bin": os.urandom(3_000_000), "deep/er/y.txt": b"y", "LAST": b"done"}
    for name, data in content.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    object_store.upload_folder(source, object_store.join(root, "up"), last="LAST")
    object_store.download_folder(object_store.join(root, "up"), target)
    assert {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*.*")} == {
        name: data for name, data in content.items() if "." in name
    }
    assert (target / "LAST").read_bytes() == b"done"


def test_the_last_file_comes_after_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CHECKSUMS", "a", "z"):
        (tmp_path / name).write_text(name)
    order: list[str] = []
    monkeypatch.setattr(object_store, "upload_file", lambda local, uri: order.append(local.name))
    object_store.upload_folder(tmp_path, "anywhere", last="CHECKSUMS")
    assert order == ["a", "z", "CHECKSUMS"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "file")
    object_store.write_bytes(uri, b"old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="No space left on device"):
        object_store.write_bytes(uri, b"new")
    assert object_store.read_bytes(uri) == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    "fault", ["503 SlowDown", "503 ServiceUnavailable", "500 InternalError", "502 -", "504 -", "reset"]
)
@pytest.mark.parametrize("request_", ["read", "write", "list"])
def test_faults_that_pass_are_tried_again(faulty_s3: FaultyS3, request_: str, fault: str) -> None:
    work = {
        "read": lambda: object_store.read_bytes("s3://bucket/key"),
        "write": lambda: object_store.write_bytes("s3://bucket/key", b"x"),
        "list": lambda: object_store.list_files("s3://bucket/key"),
    }[request_]
    faulty_s3.fault = fault
    with pytest.raises(StorageError, match=rf"s3://bucket/key: failed after 5 attempts \(store: {faulty_s3.endpoint}"):
        work()


@pytest.mark.parametrize("fault", ["403 AccessDenied", "501 NotImplemented", "400 InvalidRequest"])
def test_faults_that_stay_are_not_tried_again(faulty_s3: FaultyS3, fault: str) -> None:
    faulty_s3.fault = fault
    with pytest.raises(StorageError, match="s3://bucket/key: failed \\(store") as error:
        object_store.write_bytes("s3://bucket/key", b"x")
    assert ("check AWS_ACCESS_KEY_ID" in str(error.value)) == (fault == "403 AccessDenied")


INTERRUPTED = """
import faulthandler, os, signal, sys, threading, time
faulthandler.dump_traceback_later(150, exit=True)  # where it stands, instead of a test that only says that it hung
from pathlib import Path
from jasper_ray.storage import clients, object_store

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs, and so their children, ignore it

def interrupt():
    time.sleep(float(sys.argv[3]))
    os.kill(os.getpid(), signal.SIGINT)

object_store.exists(sys.argv[2])
threading.Thread(target=interrupt, daemon=True).start()
try:
    while True:
        object_store.upload_file(Path(sys.argv[1]), sys.argv[2])
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_upload_that_is_interrupted_leaves_a_whole_object(
    s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JASPER_STORE_REQUEST_TIMEOUT_S", "5")  # the interrupt waits for the request under way
    file, uri = tmp_path / "file", f"{s3_bucket}/{tmp_path.name}/file"
    file.write_bytes(os.urandom(12_000_000))  # more than one part; a server that is slow must keep up with it
    for delay_s in ("0.1", "0.25", "0.4"):
        object_store.write_bytes(uri, b"old")
        result = run_script(INTERRUPTED, file, uri, delay_s)
        assert result.stdout == "interrupted\n", result.stderr
        assert object_store.read_bytes(uri) in (b"old", file.read_bytes())


def test_a_script_that_used_a_store_ends_cleanly(s3_bucket: str, tmp_path: Path) -> None:
    script = """
import sys
from jasper_ray.storage import clients, object_store
object_store.write_bytes(sys.argv[1], b"x")
filesystem, path = clients.open_store(sys.argv[1])
left_open = filesystem.open_input_file(path)
print(object_store.read_bytes(sys.argv[1]))
"""
    result = run_script(script, f"{s3_bucket}/{tmp_path.name}/x")
    assert (result.returncode, result.stdout, result.stderr) == (0, "b'x'\n", "")


def run_script(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=180)


def test_wrong_credentials_say_which_store_and_what_to_check(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    clients._s3.cache_clear()
    try:
        with pytest.raises(StorageError, match=r"127\.0\.0\.1.*check AWS_ACCESS_KEY_ID"):
            object_store.write_bytes(f"{s3_bucket}/x", b"x")
    finally:
        clients._s3.cache_clear()


def test_a_missing_bucket_is_named_whatever_is_asked(s3_bucket: str, tmp_path: Path) -> None:
    uri = "s3://no-such-bucket/x"
    for ask in (object_store.read_bytes, object_store.exists, object_store.size, object_store.list_files):
        with pytest.raises(StorageError, match=r"s3://no-such-bucket/x: there is no bucket .* \(store: http"):
            ask(uri)
    with pytest.raises(StorageError, match=r"s3://no-such-bucket/x: .*[Cc]reate the bucket"):
        object_store.write_bytes(uri, b"x")


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(StorageError, match="ftp://x/y: must be a local path"):
        object_store.read_bytes("ftp://x/y")
