"""Files wherever they lie: local paths, `file://`, `s3://` and `gs://`, one set of functions for all.

Remote stores are reached through `pyarrow.fs`; an S3 store other than Amazon's is named by `AWS_ENDPOINT_URL`. A
write is whole or not at all. Failures that pass by themselves (timeouts, 500, 503) are tried again with growing
pauses; those that stay, and all others, end in a `StorageError` that says which object, which endpoint and what the
server said.
"""

import logging
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import pyarrow.fs as pafs

from jasper_ray.errors import StorageError

logger = logging.getLogger(__name__)

Value = TypeVar("Value")

NUM_ATTEMPTS = 5
NUM_CLIENT_ATTEMPTS = 3
"""Of the S3 client itself, without a word, in each of ours."""
FIRST_PAUSE_S = 0.2
CONNECT_TIMEOUT_S, REQUEST_TIMEOUT_S = 10.0, 60.0
# Ceph and others answer 411 to the trailing checksums that the AWS client sends unless told otherwise.
CHECKSUM_VARIABLE, CHECKSUM_DEFAULT = "AWS_REQUEST_CHECKSUM_CALCULATION", "when_required"
# As pyarrow spells them: by name where the answer had a body, by status where it had none (HEAD).
PASSING_FAULTS = (
    "timeout",
    "timed out",
    "HTTP status 429",
    "HTTP status 500",
    "HTTP status 502",
    "HTTP status 503",
    "HTTP status 504",
    "SLOW_DOWN",
    "THROTTLING",
    "SERVICE_UNAVAILABLE",
    "INTERNAL_FAILURE",
    "NETWORK_CONNECTION",
    "connection reset",
    "curlCode",
)


def is_local(uri: str) -> bool:
    """Whether `uri` is a path on this machine."""
    return "://" not in uri or uri.startswith("file://")


def local_path(uri: str) -> Path:
    """The path of a local URI; `~` is the home folder."""
    assert is_local(uri), uri
    return Path(uri.removeprefix("file://")).expanduser()


def absolute(uri: str) -> str:
    """The same place for a process in another folder: a local path made absolute, anything else as it is."""
    return str(local_path(uri).absolute()) if is_local(uri) else uri


def join(uri: str, *parts: str) -> str:
    """`uri` with further parts, separated by single slashes."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def read_bytes(uri: str) -> bytes:
    """The whole of a file.

    Raises:
        StorageError: There is no such file, or it cannot be read.
    """
    if is_local(uri):
        return _local(uri, local_path(uri).read_bytes)

    def read() -> bytes:
        filesystem, path = _open(uri)
        with filesystem.open_input_file(path) as file:
            return bytes(file.read())

    return _remote(uri, read)


def write_bytes(uri: str, data: bytes) -> None:
    """Put a file; a reader sees the old one or the whole new one.

    Raises:
        StorageError: It cannot be written.
    """
    if is_local(uri):
        _local(uri, lambda: _replace(local_path(uri), data))
        return

    with tempfile.TemporaryDirectory(prefix="jasper-put-") as folder:
        local = Path(folder) / "object"
        _local(uri, lambda: local.write_bytes(data))
        upload_file(local, uri)


def exists(uri: str) -> bool:
    """Whether there is a file (not a folder) at `uri`."""
    if is_local(uri):
        return local_path(uri).is_file()

    def look() -> bool:
        filesystem, path = _open(uri)
        return bool(filesystem.get_file_info(path).type == pafs.FileType.File)

    return _remote(uri, look)


def list_files(uri: str) -> list[str]:
    """Files below a folder, at any depth, relative to it and sorted; none if there is no such folder."""
    if is_local(uri):
        root = local_path(uri)
        return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return _list(uri, pafs.FileType.File, recursive=True)


def list_folders(uri: str) -> list[str]:
    """Names of the folders directly in a folder, sorted; none if there is no such folder."""
    if is_local(uri):
        root = local_path(uri)
        return sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return _list(uri, pafs.FileType.Directory, recursive=False)


def delete_file(uri: str) -> None:
    """Delete a file; no error if there is none."""
    if is_local(uri):
        _local(uri, lambda: local_path(uri).unlink(missing_ok=True))
    elif exists(uri):
        filesystem, path = _open(uri)
        _remote(uri, lambda: filesystem.delete_file(path))


def delete_tree(uri: str) -> None:
    """Delete a folder and all in it; no error if there is none."""
    if is_local(uri):
        if local_path(uri).exists():
            _local(uri, lambda: shutil.rmtree(local_path(uri)))
        return

    def delete() -> None:
        filesystem, path = _open(uri)
        if filesystem.get_file_info(path).type == pafs.FileType.Directory:
            filesystem.delete_dir(path)

    _remote(uri, delete)


def upload_file(local: Path, uri: str) -> None:
    """Put a local file.

    Raises:
        StorageError: It cannot be read or written.
    """
    if is_local(uri):
        _local(uri, lambda: _replace(local_path(uri), local))
        return

    if not local.is_file():
        raise StorageError(f"{local}: there is no such file to put at {uri}")

    def upload() -> None:
        filesystem, path = _open(uri)
        # One call, not a stream that Python fills: pyarrow completes a stream that an exception closes, so that
        # Ctrl-C would leave a cut object under the final name.
        pafs.copy_files(str(local), path, source_filesystem=pafs.LocalFileSystem(), destination_filesystem=filesystem)

    _remote(uri, upload)


def download_file(uri: str, local: Path) -> None:
    """Copy a file to a local path, which then holds the old or the whole new content.

    Raises:
        StorageError: It cannot be read or written.
    """
    if is_local(uri):
        _local(uri, lambda: _replace(local, local_path(uri)))
        return

    def download() -> None:
        filesystem, path = _open(uri)
        with filesystem.open_input_stream(path) as source, _replacing(local) as partial, partial.open("wb") as target:
            shutil.copyfileobj(source, target, 8 << 20)

    _remote(uri, download)


def upload_folder(local: Path, uri: str, *, last: str) -> None:
    """Put all files of a local folder; the one named `last` (relative) comes after all others, so that its presence
    means that the rest is there.

    Raises:
        StorageError: A file cannot be written; `last` is then not there.
    """
    files = sorted(path for path in local.rglob("*") if path.is_file())
    for path in sorted(files, key=lambda path: path.relative_to(local).as_posix() == last):
        upload_file(path, join(uri, path.relative_to(local).as_posix()))


def download_folder(uri: str, local: Path) -> None:
    """Copy all files below a folder.

    Raises:
        StorageError: One cannot be read.
    """
    for name in list_files(uri):
        download_file(join(uri, name), local / name)


def _local(uri: str, work: Callable[[], Value]) -> Value:
    try:
        return work()
    except OSError as error:
        raise StorageError(f"{uri}: {error.strerror or error}") from error


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A temporary file beside `target` that takes its place at the end of the block, or vanishes after an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
    os.close(descriptor)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.chmod(0o644)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _replace(target: Path, content: bytes | Path) -> None:
    with _replacing(target) as partial:
        if isinstance(content, Path):
            shutil.copyfile(content, partial)
        else:
            partial.write_bytes(content)


@lru_cache(maxsize=16)
def _filesystem(scheme_and_bucket: str, endpoint: str | None) -> pafs.FileSystem:
    if scheme_and_bucket.startswith("s3://"):
        os.environ.setdefault(CHECKSUM_VARIABLE, CHECKSUM_DEFAULT)
        scheme, _, host = (endpoint or "").rpartition("://")
        return pafs.S3FileSystem(
            endpoint_override=host.rstrip("/") or None,
            scheme=scheme or "https",
            region=os.environ.get("AWS_REGION")
            or os.environ.get("AWS_DEFAULT_REGION")
            or ("us-east-1" if host else None),
            connect_timeout=CONNECT_TIMEOUT_S,
            request_timeout=REQUEST_TIMEOUT_S,
            retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=NUM_CLIENT_ATTEMPTS),
        )
    filesystem, _ = pafs.FileSystem.from_uri(scheme_and_bucket)
    return filesystem


def _endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _open(uri: str) -> tuple[pafs.FileSystem, str]:
    scheme, _, path = uri.partition("://")
    if scheme not in ("s3", "gs", "gcs") or not path.strip("/"):
        raise StorageError(f"{uri}: must be a local path, file://, s3://bucket/key or gs://bucket/key")
    bucket = path.partition("/")[0]
    return _filesystem(f"{scheme}://{bucket}", _endpoint() if scheme == "s3" else None), path.rstrip("/")


def _remote(uri: str, work: Callable[[], Value]) -> Value:
    """Run one request; again if its failure may pass by itself."""
    for attempt in range(1, NUM_ATTEMPTS + 1):
        try:
            return work()
        except FileNotFoundError as error:
            raise StorageError(f"{uri}: there is no such object (store: {_store(uri)})") from error
        except OSError as error:
            passing = any(fault.lower() in str(error).lower() for fault in PASSING_FAULTS)
            if not passing or attempt == NUM_ATTEMPTS:
                tried = f" after {attempt} attempts" if attempt > 1 else ""
                raise StorageError(
                    f"{uri}: failed{tried} (store: {_store(uri)}): {error}{_advice(str(error))}"
                ) from error
            pause_s = FIRST_PAUSE_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5)
            logger.warning("%s: attempt %d failed, trying again in %.1f s: %s", uri, attempt, pause_s, error)
            time.sleep(pause_s)
    raise AssertionError("unreachable")


def _store(uri: str) -> str:
    if uri.startswith("s3://"):
        return _endpoint() or "Amazon S3; set AWS_ENDPOINT_URL for another"
    return uri.partition("://")[0]


def _advice(message: str) -> str:
    if any(
        sign in message for sign in ("ACCESS_DENIED", "SIGNATURE", "INVALID_ACCESS_KEY", "HTTP status 403", "redential")
    ):
        return ". Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the node's instance role"
    if "NO_SUCH_BUCKET" in message:
        return ". Create the bucket first"
    return ""


def _list(uri: str, kind: pafs.FileType, *, recursive: bool) -> list[str]:
    filesystem, path = _open(uri)
    selector = pafs.FileSelector(path, allow_not_found=True, recursive=recursive)
    infos = _remote(uri, lambda: filesystem.get_file_info(selector))
    return sorted(info.path[len(path) :].strip("/") for info in infos if info.type == kind)
