"""A file that arrives in chunks; how far each has come is on disk too, so that it outlives the process."""

import json
import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

STATE_SUFFIX = ".json"
# What a process that is killed may have to fetch again.
SAVE_INTERVAL_S = 0.5


class PartFile:
    """A file of known size of which pieces are there; safe to write to from several threads."""

    def __init__(self, path: Path, *, num_bytes: int, chunk_bytes: int) -> None:
        """Open what an earlier process has left at `path`, if it is for the same size and chunks, else begin."""
        self.path = path
        self.num_bytes = num_bytes
        self.chunk_bytes = chunk_bytes
        self._state_path = path.with_name(path.name + STATE_SUFFIX)
        self._lock = threading.Lock()
        self._saved_s = 0.0
        self._done = self._load()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        os.ftruncate(self._descriptor, num_bytes)

    def __enter__(self) -> "PartFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._save()
        finally:
            with self._lock:
                os.close(self._descriptor)
                self._descriptor = -1

    @property
    def num_chunks(self) -> int:
        """Chunks of the file; the last may be shorter."""
        return len(self._done)

    @property
    def num_done(self) -> int:
        """Bytes that are there."""
        return sum(self._done)

    def missing(self, chunk: int) -> tuple[int, int]:
        """Positions in the file of the first missing byte of a chunk, and behind its last."""
        first = chunk * self.chunk_bytes
        return first + self._done[chunk], min(first + self.chunk_bytes, self.num_bytes)

    def write(self, chunk: int, content: bytes) -> None:
        """Add bytes to a chunk, which must have room for them; raises `OSError` if the disk has none."""
        with self._lock:
            if self._descriptor < 0:  # closed while a thread was still reading from the net
                return
            position, end = self.missing(chunk)
            assert len(content) <= end - position, "a chunk gets no more than it lacks"
            while content:
                written = os.pwrite(self._descriptor, content, position)
                position, content = position + written, content[written:]
                self._done[chunk] += written
            is_due = time.monotonic() - self._saved_s > SAVE_INTERVAL_S
        if is_due:
            self._save()

    def forget(self) -> None:
        """Take nothing as being there."""
        with self._lock:
            self._done = [0] * self.num_chunks
        self._save()

    def delete_state(self) -> None:
        """Delete what stands beside the file, which is complete."""
        self._state_path.unlink(missing_ok=True)

    def _shape(self) -> dict[str, int]:
        return {"num_bytes": self.num_bytes, "chunk_bytes": self.chunk_bytes}

    def _load(self) -> list[int]:
        sizes = [min(self.chunk_bytes, self.num_bytes - first) for first in range(0, self.num_bytes, self.chunk_bytes)]
        try:
            state: Any = json.loads(self._state_path.read_text(encoding="utf-8"))
            done = state["done"]
            is_ours = {name: state[name] for name in self._shape()} == self._shape()
            # The file has its full size from the first moment: one of another size is not what the state is about.
            if is_ours and self.path.stat().st_size == self.num_bytes and len(done) == len(sizes):
                return [min(max(0, int(count)), size) for count, size in zip(done, sizes, strict=True)]
        except (OSError, ValueError, TypeError, KeyError):
            pass
        return [0] * len(sizes)

    def _save(self) -> None:
        with self._lock:
            other = self._state_path.with_name(self._state_path.name + ".new")
            other.write_text(json.dumps(self._shape() | {"done": self._done}), encoding="utf-8")
            other.replace(self._state_path)
            self._saved_s = time.monotonic()
