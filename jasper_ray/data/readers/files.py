"""The files of a corpus: told apart by how they begin, found in a folder."""

from collections.abc import Callable
from pathlib import Path

from jasper_ray.errors import DataError

HEAD_BYTES = 1 << 16


def file_head(path: Path) -> str:
    """The first 64 KiB as text, without a byte order mark; empty when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES).decode("utf-8-sig", errors="replace")
    # ValueError: a NUL in the name.
    except (OSError, ValueError):
        return ""


def matching_files(source: Path, suffixes: tuple[str, ...], matches: Callable[[Path], bool]) -> list[Path]:
    """The source itself if it is a file, else the files right in it with one of the suffixes; those that match."""
    try:
        if not source.is_dir():
            return [source] if matches(source) else []
        return [path for path in sorted(source.iterdir()) if path.suffix in suffixes and matches(path)]
    except OSError:
        return []


def only_file(source: Path, suffixes: tuple[str, ...], matches: Callable[[Path], bool], kind: str) -> Path:
    """The source itself if it is no folder, whatever it holds, else the one file in it that matches.

    Raises:
        DataError: The folder holds none or several; names them.
    """
    if not source.is_dir():
        return source
    files = matching_files(source, suffixes, matches)
    if len(files) != 1:
        names = f"{len(files)} ({', '.join(path.name for path in files)})" if files else "none"
        raise DataError(f"{source}: must hold one {kind}, holds {names}. Give the file instead of the folder")
    return files[0]
