"""What every reader of a foreign format gives: utterances whose audio is read when somebody asks for it."""

import io
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from jasper_ray.errors import DataError
from jasper_ray.storage.store_path import CorpusPath, read_part


class AudioReference(Protocol):
    """Where the encoded file of an utterance lies; small and picklable, so that a list of them can travel."""

    @property
    def num_bytes(self) -> int:
        """Size of what `read` gives, exact or estimated; the same whenever a corpus is listed."""
        ...

    def read(self) -> bytes:
        """The encoded file.

        Raises:
            AudioError: What lies there is not the audio that the corpus promises.
            DataError: It cannot be read. Both name file and line of the corpus.
        """
        ...


class Recording(AudioReference, Protocol):
    """Audio that can also be read from the middle, without its beginning."""

    def open(self) -> BinaryIO:
        """The encoded file as a seekable stream; raises `OSError` or `DataError`."""
        ...


@dataclass(frozen=True)
class AudioBytes:
    """An encoded file in memory."""

    content: bytes

    @property
    def num_bytes(self) -> int:
        """Exact size."""
        return len(self.content)

    def open(self) -> BinaryIO:
        """The file as a stream."""
        return io.BytesIO(self.content)

    def read(self) -> bytes:
        """The encoded file."""
        return self.content


@dataclass(frozen=True)
class AudioFile:
    """A file on a disk; `audio_file` makes one."""

    path: CorpusPath
    where: str
    """File and line of the corpus that name it, for messages."""
    num_bytes: int

    def open(self) -> BinaryIO:
        """The file as a stream."""
        return self.path.open("rb")

    def read(self) -> bytes:
        """The encoded file."""
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise _unreadable(self.where, self.path, error) from error


@dataclass(frozen=True)
class AudioPart:
    """A file that lies uncompressed in a larger one, such as a member of a tar."""

    path: CorpusPath
    offset: int
    num_bytes: int
    where: str
    """File and line, or tar and key, that name it, for messages."""

    def open(self) -> BinaryIO:
        """The part as a stream."""
        return io.BufferedReader(_PartStream(self.path.open("rb"), self.offset, self.num_bytes))

    def read(self) -> bytes:
        """The encoded file."""
        try:
            content = read_part(self.path, self.offset, self.num_bytes)
        except OSError as error:
            raise _unreadable(self.where, self.path, error) from error
        if len(content) != self.num_bytes:
            raise DataError(
                f"{self.where}: {self.path} ends {self.num_bytes - len(content)} bytes too early: it has changed since "
                "it was listed"
            )
        return content


@dataclass(frozen=True)
class CorpusUtterance:
    """An utterance as a corpus has it, before it is checked and normalised."""

    id: str
    audio: AudioReference
    path: str
    """Where it came from, for messages."""
    text: str
    speaker: str
    fields: Mapping[str, str] = field(default_factory=dict)
    """Whatever else the corpus says, by name; `where` selects by it."""


def audio_file(path: CorpusPath, *, where: str) -> AudioFile:
    """A reference to a file, of which only the size is looked at.

    Raises:
        DataError: There is no such file; names `where`, the path and the reason.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise _unreadable(where, path, error) from error
    if not stat.S_ISREG(found.st_mode):  # a pipe would never end
        raise DataError(f"{where}: audio {path} is not a file")
    return AudioFile(path, where, found.st_size)


def _unreadable(where: str, path: CorpusPath, error: OSError | ValueError) -> DataError:
    if isinstance(error, OSError):
        return DataError(f"{where}: audio {path} cannot be read: {error.strerror or error}")
    return DataError(f"{where}: audio {str(path)!r} cannot be read: {error}")


class _PartStream(io.RawIOBase):
    """Bytes `[offset, offset + num_bytes)` of a file as a file; closes it."""

    def __init__(self, file: BinaryIO, offset: int, num_bytes: int) -> None:
        self._file, self._offset, self._num_bytes, self._position = file, offset, num_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._num_bytes}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        self._file.seek(self._offset + self._position)
        content = self._file.read(max(0, min(len(buffer), self._num_bytes - self._position)))
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()
