"""The files in a tar, plain or gzipped, by name, offset and size: their headers are read, not what they hold."""

import tarfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import lru_cache, partial
from types import TracebackType

from jasper_ray.data.readers.corpus import AudioPart, AudioReference
from jasper_ray.data.readers.files import unpacked
from jasper_ray.data.readers.sequential import Sequential
from jasper_ray.errors import DataError
from jasper_ray.storage.store_path import CorpusPath

GZIP_MAGIC = b"\x1f\x8b"
BLOCK_BYTES = 1 << 20
# What threads that work on the same gzipped tar may lie apart.
KEPT_BLOCKS = 64
ERRORS = (tarfile.TarError, OSError, ValueError, EOFError, zlib.error)


@dataclass(frozen=True)
class TarredFile:
    """A regular file in a tar."""

    name: str
    offset: int
    """Of its content, in the tar as it is unpacked."""
    num_bytes: int


@dataclass(frozen=True)
class GzippedPart:
    """A file that lies in a gzipped one. Parts that are read in their order cost no more than unpacking it once."""

    path: CorpusPath
    offset: int
    """In the unpacked file."""
    num_bytes: int
    where: str
    """Tar and key that name it, for messages."""

    def read(self) -> bytes:
        """The encoded file."""
        first, last = self.offset // BLOCK_BYTES, (self.offset + self.num_bytes - 1) // BLOCK_BYTES
        try:
            blocks = _unpacked(self.path, self.path.stat().st_mtime_ns)
            content = b"".join(blocks[number] for number in range(first, last + 1))
        except (IndexError, *ERRORS) as error:
            raise DataError(f"{self.where}: {self.path} cannot be read as gzip: {error}") from error
        return content[self.offset % BLOCK_BYTES :][: self.num_bytes]


class TarFiles(AbstractContextManager["TarFiles"]):
    """Iterates over the regular files of a tar, once and in their order.

    Raises:
        DataError: The tar is damaged or cut short; names it and the reason.
    """

    def __init__(self, path: CorpusPath) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self.is_gzip = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
            self._stream = unpacked(path) if self.is_gzip else path.open("rb")
        except ERRORS as error:
            raise self._error(error) from error

    def __enter__(self) -> "TarFiles":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stream.close()

    def __iter__(self) -> Iterator[TarredFile]:
        try:
            # "r:" reads forward only, as long as nobody asks for a member: so it does for gzip too.
            with tarfile.open(fileobj=self._stream, mode="r:", tarinfo=_Header) as archive:
                while (member := archive.next()) is not None:
                    # A sparse file does not lie in one piece; nobody's recordings are one.
                    if member.isfile() and not member.issparse():
                        yield TarredFile(member.name, member.offset_data, member.size)
                    # tarfile keeps the header of every member it has passed: a gigabyte for a million.
                    archive.members.clear()  # type: ignore[attr-defined]
        except ERRORS as error:
            raise self._error(error) from error

    def read(self, file: TarredFile) -> bytes:
        """What the file holds that iteration has just come to."""
        try:
            self._stream.seek(file.offset)
            content = self._stream.read(file.num_bytes)
        except ERRORS as error:
            raise self._error(error) from error
        if len(content) != file.num_bytes:
            raise self._error("unexpected end of data")
        return content

    def reference(self, file: TarredFile, *, where: str) -> AudioReference:
        """The file as audio."""
        kind = GzippedPart if self.is_gzip else AudioPart
        return kind(self.path, file.offset, file.num_bytes, where)

    def _error(self, reason: object) -> DataError:
        return DataError(f"{self.path}: cannot be read as a tar: {reason}")


class _Header(tarfile.TarInfo):
    """A member's header; where tarfile takes a missing or damaged one as the end of the archive, it is an error."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        if len(buf) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it ends without the mark of a tar's end, so it was cut short")
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if any(buf):
                raise tarfile.ReadError(f"damaged header: {error}") from error
            raise


@lru_cache(maxsize=2)
def _unpacked(path: CorpusPath, _written_ns: int) -> Sequential[bytes]:
    """Blocks of a gzipped file as it is unpacked."""
    return Sequential(partial(_blocks, path), keep=KEPT_BLOCKS)


def _blocks(path: CorpusPath) -> Iterator[bytes]:
    with unpacked(path) as stream:
        while block := stream.read(BLOCK_BYTES):
            yield block
