"""Files wherever they lie: local paths, `file://`, `s3://` and `gs://`, one set of functions for all.

Remote stores are reached through `pyarrow.fs`; an S3 store other than Amazon's is named by `AWS_ENDPOINT_URL`. A
write is whole or not at all; what was read has the size that the store says and comes from one version of the object,
however many tries it took. Failures that pass by themselves (timeouts, cut answers, 500, 503) are tried again with
growing pauses; those that stay, and all others, end in a `StorageError` that says which object, which store, what was
said and what to do.
"""

import io
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import wait
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import pyarrow.fs as pafs

from jasper_ray.errors import StorageError
from jasper_ray.storage.clients import bucket_of, open_store, store_of
from jasper_ray.storage.listing import Entry, entry_of, right_in
from jasper_ray.storage.local_files import on_disk, replace, replacing
from jasper_ray.storage.retries import retried
from jasper_ray.storage.uploads import put, upload_threads

Value = TypeVar("Value")

CHUNK_BYTES = 16 << 20
"""Of a download; each is a request of its own and is tried again by itself."""


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
        return on_disk(uri, local_path(uri).read_bytes)

    with io.BytesIO() as target:
        _read_into(uri, target)
        return target.getvalue()


def write_bytes(uri: str, data: bytes) -> None:
    """Put a file; a reader sees the old one or the whole new one.

    Raises:
        StorageError: It cannot be written.
    """
    if is_local(uri):
        on_disk(uri, lambda: replace(local_path(uri), data))
        return

    with tempfile.TemporaryDirectory(prefix="jasper-put-") as folder:
        local = Path(folder) / "object"
        on_disk(uri, lambda: local.write_bytes(data))
        upload_file(local, uri)


def exists(uri: str) -> bool:
    """Whether there is a file (not a folder) at `uri`."""
    if is_local(uri):
        return local_path(uri).is_file()

    return bool(_look(uri).type == pafs.FileType.File)


def size(uri: str) -> int:
    """Bytes of a file.

    Raises:
        StorageError: There is no such file.
    """
    if is_local(uri):
        return on_disk(uri, lambda: local_path(uri).stat().st_size)
    info = _look(uri)
    if info.type != pafs.FileType.File:
        raise StorageError(f"{uri}: there is no such object (store: {store_of(uri)})")
    return int(info.size)


def list_files(uri: str) -> list[str]:
    """Files below a folder, at any depth, relative to it and sorted; none if there is no such folder."""
    if is_local(uri):
        root = local_path(uri)
        return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return _list(uri, pafs.FileType.File, recursive=True)


def look(uri: str) -> Entry | None:
    """What lies at a remote URI, if anything.

    Raises:
        StorageError: There is no such bucket, or the store does not answer.
    """
    info = _look(uri)
    return None if info.type == pafs.FileType.NotFound else entry_of(info)


def list_entries(uri: str, *, recursive: bool) -> dict[str, Entry]:
    """What lies in a remote folder, or at any depth below it, by path relative to it, sorted; empty if there is none.

    Raises:
        StorageError: There is no such bucket, or the store does not answer.
    """
    _, path = open_store(uri)
    infos = {info.path[len(path) :].strip("/"): info for info in _infos(uri, recursive=recursive)}
    return {name: entry_of(infos[name]) for name in sorted(infos)}


def open_object(uri: str) -> "ObjectReader":
    """A remote object to be read in pieces.

    Raises:
        StorageError: There is no such object, or the store does not answer.
    """
    return ObjectReader(uri)


class ObjectReader:
    """A remote object whose parts are read as they are wanted, each checked and tried again by itself.

    Args:
        uri: `s3://bucket/key` or `gs://bucket/key`.

    Raises:
        StorageError: There is no such object, or the store does not answer.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._file = _remote(uri, partial(_open, uri))
        self.num_bytes = int(self._file.size())
        """Of the whole object."""

    def read_at(self, offset: int, num_bytes: int) -> bytes:
        """Bytes from `offset`; fewer than asked for only at the object's end.

        Raises:
            StorageError: They cannot be read.
        """
        num_bytes = max(0, min(num_bytes, self.num_bytes - offset))
        return _remote(self._uri, partial(_chunk, self._file, offset, num_bytes)) if num_bytes else b""

    def close(self) -> None:
        """Let the connection go."""
        self._file.close()


def list_folders(uri: str) -> list[str]:
    """Names of the folders directly in a folder, sorted; none if there is no such folder."""
    if is_local(uri):
        root = local_path(uri)
        return sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return _list(uri, pafs.FileType.Directory, recursive=False)


def delete_file(uri: str) -> None:
    """Delete a file; no error if there is none."""
    if is_local(uri):
        on_disk(uri, lambda: local_path(uri).unlink(missing_ok=True))
        return

    def delete() -> None:
        filesystem, path = open_store(uri)
        # Looked at again in every try: one whose answer was lost may have done it.
        if filesystem.get_file_info(path).type == pafs.FileType.File:
            filesystem.delete_file(path)

    _remote(uri, delete)


def delete_tree(uri: str) -> None:
    """Delete a folder and all in it; no error if there is none."""
    if is_local(uri):
        if local_path(uri).exists():
            on_disk(uri, lambda: shutil.rmtree(local_path(uri)))
        return

    def delete() -> None:
        filesystem, path = open_store(uri)
        if filesystem.get_file_info(path).type == pafs.FileType.Directory:
            with suppress(FileNotFoundError):  # from Google's, of the empty folder, once all in it is gone
                filesystem.delete_dir(path)

    _remote(uri, delete)


def upload_file(local: Path, uri: str) -> None:
    """Put a local file.

    Raises:
        StorageError: It cannot be read or written.
    """
    if is_local(uri):
        on_disk(uri, lambda: replace(local_path(uri), local))
        return

    if not local.is_file():
        raise StorageError(f"{local}: there is no such file to put at {uri}")

    def upload() -> None:
        filesystem, path = open_store(uri)
        upload = upload_threads().submit(put, local, filesystem, path)
        try:
            upload.result()
        finally:
            wait([upload])  # interrupted: the object is whole before anything else happens
        stored = filesystem.get_file_info(path).size
        if stored != local.stat().st_size:
            raise OSError(f"short answer: {stored} of {local.stat().st_size} bytes were stored")

    _remote(uri, upload)


def download_file(uri: str, local: Path) -> None:
    """Copy a file to a local path, which then holds the old or the whole new content.

    Raises:
        StorageError: It cannot be read or written.
    """
    if is_local(uri):
        on_disk(uri, lambda: replace(local, local_path(uri)))
        return

    def download() -> None:
        with replacing(local) as unfinished, unfinished.open("wb") as target:
            _read_into(uri, target)

    on_disk(str(local), download)


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


def _remote(uri: str, work: Callable[[], Value]) -> Value:
    return retried(uri, store_of(uri), work)


def _look(uri: str) -> pafs.FileInfo:
    """What the store knows of a path.

    Raises:
        StorageError: There is no such bucket, or the store does not answer.
    """

    def look() -> pafs.FileInfo:
        filesystem, path = open_store(uri)
        return filesystem.get_file_info(path)

    info = _remote(uri, look)
    if info.type == pafs.FileType.NotFound:
        _require_bucket(uri)
    return info


def _require_bucket(uri: str) -> None:
    """Tell a bucket that is not there from an object that is not there.

    Raises:
        StorageError: There is no such bucket.
    """

    def look() -> bool:
        filesystem, _ = open_store(uri)
        return bool(filesystem.get_file_info(bucket_of(uri)).type == pafs.FileType.NotFound)

    try:
        missing = _remote(uri, look)
    except StorageError:  # who may read objects may not always look at their bucket
        return
    if missing:
        raise StorageError(
            f"{uri}: there is no bucket {bucket_of(uri)!r} (store: {store_of(uri)}). Create it, or check its name and "
            "that this is the store you mean"
        )


def _read_into(uri: str, target: BinaryIO) -> None:
    """Fill an empty file with an object, in chunks that are checked and tried again one by one."""

    def read() -> None:
        target.seek(0)
        target.truncate()
        with _remote(uri, partial(_open, uri)) as file:
            num_bytes, version = file.size(), _version(file)
            for start in range(0, num_bytes, CHUNK_BYTES):
                target.write(_remote(uri, partial(_chunk, file, start, min(CHUNK_BYTES, num_bytes - start))))
        if num_bytes > CHUNK_BYTES:
            # Chunks are requests of their own: the same version before and after means the same in between.
            with _remote(uri, partial(_open, uri)) as file:
                if (file.size(), _version(file)) != (num_bytes, version):
                    raise OSError(f"the object changed while it was read: it was {version}, now it is {_version(file)}")

    _remote(uri, read)


def _open(uri: str) -> Any:
    filesystem, path = open_store(uri)
    try:
        return filesystem.open_input_file(path)
    except FileNotFoundError:
        _require_bucket(uri)
        raise


def _chunk(file: Any, start: int, num_bytes: int) -> bytes:
    chunk: bytes = file.read_at(num_bytes, start)
    if len(chunk) != num_bytes:
        raise OSError(f"short answer: {len(chunk)} bytes instead of {num_bytes} from byte {start}")
    return chunk


def _version(file: Any) -> str:
    """What the store tells of an object's content; empty where it tells nothing."""
    metadata = file.metadata() or {}
    return " ".join(str(metadata.get(key, "")) for key in ("ETag", "Last-Modified", "generation")).strip()


def _list(uri: str, kind: pafs.FileType, *, recursive: bool) -> list[str]:
    _, path = open_store(uri)
    return sorted(info.path[len(path) :].strip("/") for info in _infos(uri, recursive=recursive) if info.type == kind)


def _infos(uri: str, *, recursive: bool) -> list[pafs.FileInfo]:
    def list_once() -> list[pafs.FileInfo]:
        filesystem, path = open_store(uri)
        # pyarrow's client of Google's store lists no folders.
        everything = recursive or isinstance(filesystem, pafs.GcsFileSystem)
        selector = pafs.FileSelector(path, allow_not_found=True, recursive=everything)
        found = list(filesystem.get_file_info(selector))
        return found if recursive == everything else right_in(path, found)

    infos: list[pafs.FileInfo] = _remote(uri, list_once)
    if not infos:
        _require_bucket(uri)
    return infos
