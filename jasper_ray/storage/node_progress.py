"""How far the processes of a node are that share a folder: each says it in a file that it has locked."""

import fcntl
import os
import struct
import tempfile
from contextlib import suppress
from pathlib import Path

Place = tuple[int, int]
"""(epoch, step)."""

SUFFIX = ".step"
_PLACE = struct.Struct("<qq")
_NOT_BEGUN: Place = (-1, -1)


class NodeProgress:
    """This process's place, and the place of the slowest process of its group on this node.

    The lock is the kernel's (`flock`): a killed process is out of the group at once. A process belongs to the group
    from here on, so all should have made theirs before the first goes on.

    Args:
        folder: Of the group, on a disk of this node.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._place = _NOT_BEGUN
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(suffix=".new", dir=folder)
        self._file = os.fdopen(descriptor, "r+b", buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        self._write()
        # Under its real name only with the lock: a file without one is that of a dead process.
        self._path = Path(name).with_suffix(SUFFIX)
        Path(name).replace(self._path)

    def publish(self, place: Place) -> None:
        """This process is at that place."""
        if place != self._place:
            self._place = place
            self._write()

    def slowest(self) -> Place | None:
        """The place of the slowest process; none while one has not begun."""
        others = (path for path in self._folder.glob(f"*{SUFFIX}") if path != self._path)
        slowest = min([self._place, *(place for path in others for place in _place_of(path))])
        return None if slowest == _NOT_BEGUN else slowest

    def close(self) -> None:
        """Leave the group; may be called twice."""
        self._path.unlink(missing_ok=True)
        self._file.close()

    def _write(self) -> None:
        os.pwrite(self._file.fileno(), _PLACE.pack(*self._place), 0)


def _place_of(path: Path) -> list[Place]:
    """Of a living process; nothing of a dead one, whose file is deleted."""
    with suppress(FileNotFoundError), path.open("rb", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            epoch, step = _PLACE.unpack(os.pread(file.fileno(), _PLACE.size, 0))
            return [(epoch, step)]
        path.unlink()
    return []
