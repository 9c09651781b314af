"""What a remote store lists: objects, and the folders that their names make."""

from dataclasses import dataclass

import pyarrow.fs as pafs


@dataclass(frozen=True)
class Entry:
    """What a remote store knows of an object or a folder."""

    is_file: bool
    num_bytes: int
    changed_ns: int
    """Time of the last change; 0 for a folder."""


def entry_of(info: pafs.FileInfo) -> Entry:
    """As pyarrow tells it."""
    is_file = info.type == pafs.FileType.File
    return Entry(is_file, int(info.size) if is_file else 0, int(info.mtime_ns or 0) if is_file else 0)


def right_in(path: str, infos: list[pafs.FileInfo]) -> list[pafs.FileInfo]:
    """The files right in a folder, and its folders, from all that lies below it."""
    found: dict[str, pafs.FileInfo] = {}
    for info in infos:
        name, _, below = info.path[len(path) :].strip("/").partition("/")
        place = f"{path.rstrip('/')}/{name}"
        found[place] = pafs.FileInfo(place, pafs.FileType.Directory) if below else info
    return list(found.values())
