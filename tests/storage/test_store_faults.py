"""Every function of the object store behind a proxy that spoils requests to a real S3 server."""

import gc
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_proxy import FaultProxy, Faults, fault_proxy

from jasper_ray.errors import StorageError
from jasper_ray.storage import clients, object_store

CONTENT = os.urandom(300_000)


@pytest.fixture
def proxy(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """Between this process and the server; the S3 client's own retries off, so that ours are what is tested."""
    port = int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2])
    with fault_proxy(port, Faults(), seed=5) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        monkeypatch.setenv("JASPER_STORE_REQUEST_TIMEOUT_S", "1")
        monkeypatch.setenv("JASPER_STORE_FIRST_PAUSE_S", "0.01")
        monkeypatch.setattr(clients, "CLIENT_ATTEMPTS", 1)
        clients._s3.cache_clear()
        yield proxy
        clients._s3.cache_clear()


@pytest.fixture
def folder(proxy: FaultProxy, s3_bucket: str, tmp_path: Path) -> str:
    """A folder with the files `a` and `b/c`."""
    uri = f"{s3_bucket}/{tmp_path.name}"
    object_store.write_bytes(f"{uri}/a", CONTENT)
    object_store.write_bytes(f"{uri}/b/c", b"c")
    return uri


def download(folder: str, tmp_path: Path) -> bytes:
    object_store.download_file(f"{folder}/a", tmp_path / "down")
    return (tmp_path / "down").read_bytes()


def download_folder(folder: str, tmp_path: Path) -> bytes:
    object_store.download_folder(folder, tmp_path / "all")
    return (tmp_path / "all" / "a").read_bytes() + (tmp_path / "all" / "b" / "c").read_bytes()


def upload(folder: str, tmp_path: Path) -> bytes:
    (tmp_path / "up").write_bytes(CONTENT[::-1])
    object_store.upload_file(tmp_path / "up", f"{folder}/a")
    return object_store.read_bytes(f"{folder}/a")


def write(folder: str, tmp_path: Path) -> bytes:
    object_store.write_bytes(f"{folder}/a", CONTENT[::-1])
    return object_store.read_bytes(f"{folder}/a")


def upload_folder(folder: str, tmp_path: Path) -> list[str]:
    (tmp_path / "x" / "y").mkdir(parents=True)
    (tmp_path / "x" / "y" / "z").write_bytes(CONTENT)
    object_store.upload_folder(tmp_path / "x", f"{folder}/x", last="y/z")
    return object_store.list_files(folder)


def delete_file(folder: str, tmp_path: Path) -> list[str]:
    object_store.delete_file(f"{folder}/a")
    return object_store.list_files(folder)


def delete_tree(folder: str, tmp_path: Path) -> list[str]:
    object_store.delete_tree(folder)
    return object_store.list_files(folder)


WORK: list[tuple[Callable[[str, Path], object], object]] = [
    (lambda folder, _: object_store.read_bytes(f"{folder}/a"), CONTENT),
    (lambda folder, _: object_store.exists(f"{folder}/a"), True),
    (lambda folder, _: object_store.size(f"{folder}/a"), len(CONTENT)),
    (lambda folder, _: object_store.list_files(folder), ["a", "b/c"]),
    (lambda folder, _: object_store.list_folders(folder), ["b"]),
    (download, CONTENT),
    (download_folder, CONTENT + b"c"),
    (upload, CONTENT[::-1]),
    (write, CONTENT[::-1]),
    (upload_folder, ["a", "b/c", "x/y/z"]),
    (delete_file, ["b/c"]),
    (delete_tree, []),
]
NAMES = [
    "read",
    "exists",
    "size",
    "list",
    "list_folders",
    "download",
    "download_folder",
    "upload",
    "write",
    "upload_folder",
    "delete",
    "delete_tree",
]


@pytest.mark.parametrize(("work", "expected"), WORK, ids=NAMES)
@pytest.mark.parametrize("fault", ["cut", "refuse"])
def test_a_spoiled_request_changes_nothing(
    proxy: FaultProxy, folder: str, tmp_path: Path, work: Callable[[str, Path], object], expected: object, fault: str
) -> None:
    """The first request, then one in twelve; never the whole of a result missing or doubled."""
    proxy.faults.first = fault
    setattr(proxy.faults, fault, 0.08)
    assert work(folder, tmp_path) == expected
    assert proxy.counts[fault] >= 1, proxy.lines


@pytest.mark.parametrize(
    ("work", "expected"),
    [(download, CONTENT), (upload, CONTENT[::-1]), (delete_tree, [])],
    ids=["down", "up", "delete"],
)
def test_a_request_that_hangs_is_given_up_and_made_again(
    proxy: FaultProxy, folder: str, tmp_path: Path, work: Callable[[str, Path], object], expected: object
) -> None:
    proxy.faults.first = "hang"
    assert work(folder, tmp_path) == expected
    assert proxy.counts["hang"] == 1


@pytest.mark.parametrize(("work", "expected"), WORK, ids=NAMES)
def test_a_store_that_never_recovers_is_an_error_that_names_it(
    proxy: FaultProxy,
    folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    work: Callable[[str, Path], object],
    expected: object,
) -> None:
    monkeypatch.setenv("JASPER_STORE_ATTEMPTS", "2")
    proxy.faults.refuse = 1
    with pytest.raises(
        StorageError, match=rf"{folder}\S*: failed after 2 attempts \(store: {proxy.endpoint}\).*503|SLOW"
    ):
        work(folder, tmp_path)


def test_a_store_that_hangs_for_good_is_an_error_within_the_time_allowed(
    proxy: FaultProxy, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JASPER_STORE_ATTEMPTS", "2")
    proxy.faults.hang = 1
    with pytest.raises(StorageError, match=r"failed after 2 attempts.*JASPER_STORE_REQUEST_TIMEOUT_S"):
        object_store.read_bytes(f"{folder}/a")


def test_no_server_at_the_endpoint_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("JASPER_STORE_ATTEMPTS", "1")
    with pytest.raises(StorageError, match=r"s3://b/k: failed.*127\.0\.0\.1:9.*can be reached"):
        object_store.read_bytes("s3://b/k")


@pytest.mark.parametrize("chunk_bytes", [10_000, 100_000])
def test_chunks_are_joined_in_order_under_faults(
    proxy: FaultProxy, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int
) -> None:
    monkeypatch.setattr(object_store, "CHUNK_BYTES", chunk_bytes)
    proxy.faults.cut, proxy.faults.refuse = 0.05, 0.1
    assert download(folder, tmp_path) == CONTENT


def test_an_object_replaced_while_it_is_read_is_never_mixed(
    proxy: FaultProxy, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other content comes between the second chunk and the third."""
    monkeypatch.setattr(object_store, "CHUNK_BYTES", 100_000)
    other, chunks, original = CONTENT[::-1], [], object_store._chunk

    def chunk(*arguments: object) -> bytes:
        chunks.append(arguments)
        if len(chunks) == 3:
            object_store.write_bytes(f"{folder}/a", other)
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(object_store, "_chunk", chunk)
    assert download(folder, tmp_path) == other
    assert len(chunks) == 6


def test_a_short_answer_is_asked_for_again(
    proxy: FaultProxy, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, asked = object_store._chunk, []

    class Short:
        def __init__(self, file: object) -> None:
            self.file = file

        def read_at(self, num_bytes: int, start: int) -> bytes:
            asked.append(start)
            return bytes(self.file.read_at(num_bytes, start))[: -1 if len(asked) == 1 else None]  # type: ignore[attr-defined]

    monkeypatch.setattr(object_store, "_chunk", lambda file, *rest: original(Short(file), *rest))
    assert download(folder, tmp_path) == CONTENT and len(asked) == 2


@pytest.mark.parametrize("fault", ["cut", "refuse"])
@pytest.mark.parametrize("request_", ["POST /jasper/", "PUT /jasper/"])
def test_a_failed_request_of_a_large_upload_is_never_taken_for_success(
    proxy: FaultProxy, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_: str, fault: str
) -> None:
    """The start of the upload, a part of it or its end fails for good: an error, and the old object stays."""
    monkeypatch.setenv("JASPER_STORE_ATTEMPTS", "1")
    (tmp_path / "large").write_bytes(os.urandom(12_000_000))
    proxy.faults.only = request_
    setattr(proxy.faults, fault, 1)
    with pytest.raises(StorageError, match=rf"{folder}/a: failed"):
        object_store.upload_file(tmp_path / "large", f"{folder}/a")
    proxy.faults = Faults()
    monkeypatch.delenv("JASPER_STORE_ATTEMPTS")
    assert object_store.read_bytes(f"{folder}/a") == CONTENT


def test_a_file_that_cannot_be_read_to_its_end_is_not_put_in_part(
    proxy: FaultProxy, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dying(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                raise OSError(5, "Input/output error")
            return super().read(1000)

    (tmp_path / "dying").write_bytes(b"x" * 5000)
    monkeypatch.setattr(Path, "open", lambda path, *_: Dying(path))
    with pytest.raises(StorageError, match="Input/output error"):
        object_store.upload_file(tmp_path / "dying", f"{folder}/a")
    gc.collect()
    assert object_store.read_bytes(f"{folder}/a") == CONTENT
