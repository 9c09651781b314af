"""Places in an object store that are read like a `pathlib.Path`, so that a corpus may lie in a bucket."""

import contextlib
import errno
import io
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, TextIO, TypeAlias, cast, overload

from jasper_ray.storage import object_store
from jasper_ray.storage.listing import Entry

FIRST_READ_BYTES = 64 << 10
"""Of an object that is read here and there, such as the headers of a tar."""
MAX_READ_BYTES = 8 << 20
"""Of an object that is read on and on: requests double up to this."""
NUM_SINGLE_LOOKS = 8
"""Files of a folder that are asked for one by one; whoever wants more gets the folder listed."""


@dataclass(frozen=True)
class StoreStat:
    """What `StorePath.stat` tells, under the names of `os.stat_result`."""

    st_mode: int
    st_size: int
    st_mtime_ns: int


class StorePath:
    """A place in an object store, with those methods of `pathlib.Path` that reading takes.

    What was listed is not asked for again: paths made from one another share what they know, so that the sizes of a
    million files of one folder are a thousand requests. A path that travels to another process forgets it.

    Every method that asks the store may raise `StorageError`: it does not answer, or has no such bucket. What is
    simply not there is a `FileNotFoundError`, as on a disk.

    Args:
        uri: `s3://bucket/key` or `gs://bucket/key`.
    """

    def __init__(self, uri: str, listing: "_Listing | None" = None) -> None:
        self._scheme, _, key = uri.partition("://")
        self._key = PurePosixPath(key)
        self._listing = _Listing() if listing is None else listing

    def __reduce__(self) -> tuple[Any, ...]:
        return StorePath, (str(self),)

    def __str__(self) -> str:
        return f"{self._scheme}://{self._key}"

    def __repr__(self) -> str:
        return f"StorePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StorePath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __truediv__(self, name: str) -> "StorePath":
        parts: list[str] = []
        for part in (*self._key.parts, *PurePosixPath(name.lstrip("/")).parts):
            if part != "..":  # which a store takes for a name
                parts.append(part)
            elif len(parts) > 1:
                parts.pop()
        return self._at(PurePosixPath(*parts))

    @property
    def parts(self) -> tuple[str, ...]:
        """Bucket, folders and name."""
        return self._key.parts

    @property
    def name(self) -> str:
        """Last part."""
        return self._key.name

    @property
    def stem(self) -> str:
        """Last part without its suffix."""
        return self._key.stem

    @property
    def suffix(self) -> str:
        """From the last part's last dot."""
        return self._key.suffix

    @property
    def parent(self) -> "StorePath":
        """The folder that it lies in; a bucket's is itself."""
        return self if len(self._key.parts) <= 1 else self._at(self._key.parent)

    def absolute(self) -> "StorePath":
        """Itself."""
        return self

    def resolve(self) -> "StorePath":
        """Itself: a store has no links."""
        return self

    def exists(self) -> bool:
        """Whether an object lies there, or below."""
        return self.is_file() or self.is_dir()

    def is_dir(self) -> bool:
        """Whether objects lie below."""
        if self._is_bucket():
            self._listing.folder(self)
            return True
        found = self._listing.entry(self)
        return found is not None and not found.is_file

    def is_file(self) -> bool:
        """Whether an object lies there."""
        found = None if self._is_bucket() else self._listing.entry(self)
        return found is not None and found.is_file

    def stat(self) -> StoreStat:
        """Size and time of the last change; raises `FileNotFoundError`."""
        found = self._listing.entry(self)
        if found is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return StoreStat(stat.S_IFREG if found.is_file else stat.S_IFDIR, found.num_bytes, found.changed_ns)

    def iterdir(self) -> "Iterator[StorePath]":
        """What lies right in it."""
        return (self / name for name in self._listing.folder(self))

    def glob(self, pattern: str) -> "Iterator[StorePath]":
        """What lies right in it and whose name fits."""
        return (path for path in self.iterdir() if path._key.match(pattern))

    def rglob(self, pattern: str) -> "Iterator[StorePath]":
        """The objects below, at any depth, whose names fit; folders are not among them."""
        paths = (self / name for name in self._listing.below(self))
        return (path for path in paths if path._key.match(pattern))

    @overload
    def open(self, mode: Literal["rb"]) -> BinaryIO: ...
    @overload
    def open(self, *, encoding: str, newline: str | None = None) -> TextIO: ...
    def open(self, mode: str = "r", *, encoding: str = "utf-8", newline: str | None = None) -> BinaryIO | TextIO:
        """The object as a file to read and seek in; a part of it is a request, larger the longer it is read on."""
        stream = cast(BinaryIO, io.BufferedReader(_ObjectStream(str(self)), FIRST_READ_BYTES))
        return stream if mode == "rb" else io.TextIOWrapper(stream, encoding=encoding, newline=newline)

    def read_bytes(self) -> bytes:
        """The whole object."""
        return object_store.read_bytes(str(self))

    def read_text(self, encoding: str) -> str:
        """The whole object as text; every end of line is `\\n`."""
        with io.TextIOWrapper(io.BytesIO(self.read_bytes()), encoding=encoding) as text:
            return text.read()

    def _is_bucket(self) -> bool:
        return len(self._key.parts) == 1

    def _at(self, key: PurePosixPath) -> "StorePath":
        return StorePath(f"{self._scheme}://{key}", self._listing)


CorpusPath: TypeAlias = Path | StorePath
"""Where a corpus, or a file of it, lies."""


def corpus_path(uri: str) -> CorpusPath:
    """A place named by a user: a local path (`~` is the home folder), `s3://` or `gs://`."""
    return object_store.local_path(uri) if object_store.is_local(uri) else StorePath(uri)


def placed(folder: CorpusPath, name: str) -> CorpusPath:
    """The file that a corpus in `folder` names: a URI or an absolute path by itself, anything else below the folder."""
    if "://" in name or name.startswith("/"):
        return corpus_path(name)
    return folder / name


def read_part(path: CorpusPath, offset: int, num_bytes: int) -> bytes:
    """Bytes from `offset` of a file; fewer only at its end. Of an object, they are one request.

    Raises:
        OSError: They cannot be read.
    """
    if isinstance(path, StorePath):
        with contextlib.closing(object_store.open_object(str(path))) as file:
            return file.read_at(offset, num_bytes)
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(num_bytes)


class _Listing:
    """What a store was found to hold, by folder."""

    def __init__(self) -> None:
        self._folders: dict[str, dict[str, Entry]] = {}
        self._num_looks: Counter[str] = Counter()

    def folder(self, path: StorePath) -> dict[str, Entry]:
        """Entries right in a folder by name, sorted."""
        uri = str(path)
        if uri not in self._folders:
            self._folders[uri] = object_store.list_entries(uri, recursive=False)
        return self._folders[uri]

    def entry(self, path: StorePath) -> Entry | None:
        """What lies at a path, if anything."""
        parent = str(path.parent)
        if parent in self._folders or self._num_looks[parent] >= NUM_SINGLE_LOOKS:
            return self.folder(path.parent).get(path.name)
        self._num_looks[parent] += 1
        return object_store.look(str(path))

    def below(self, path: StorePath) -> list[str]:
        """Names of the files at any depth below a folder, relative to it, sorted."""
        names = []
        for name, entry in object_store.list_entries(str(path), recursive=True).items():
            place = path / name
            self._folders.setdefault(str(place.parent), {})[place.name] = entry
            if entry.is_file:
                names.append(name)
        return names


class _ObjectStream(io.RawIOBase):
    """An object in pieces that grow while it is read on, and are small after a jump."""

    def __init__(self, uri: str) -> None:
        self._object = object_store.open_object(uri)
        self._position, self._start, self._piece, self._next_bytes = 0, 0, b"", FIRST_READ_BYTES

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._object.num_bytes}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not 0 <= self._position - self._start < len(self._piece):
            self._fetch(len(buffer))
        first = self._position - self._start
        content = self._piece[first : first + len(buffer)]
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def _fetch(self, wanted_bytes: int) -> None:
        end = self._start + len(self._piece)
        reads_on = self._piece and 0 <= self._position - end <= self._next_bytes
        self._next_bytes = min(2 * self._next_bytes, MAX_READ_BYTES) if reads_on else FIRST_READ_BYTES
        self._start = self._position
        self._piece = self._object.read_at(self._position, max(wanted_bytes, self._next_bytes))

    def close(self) -> None:
        self._object.close()
        super().close()
