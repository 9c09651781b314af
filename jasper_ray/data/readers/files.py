"""The files of a corpus: told apart by how they begin, found in a folder."""

import gzip
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO, cast

from jasper_ray.errors import DataError
from jasper_ray.storage.store_path import CorpusPath

HEAD_BYTES = 1 << 16


def file_head(path: CorpusPath) -> str:
    """The first 64 KiB as text, without a byte order mark; empty when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES).decode("utf-8-sig", errors="replace")
    # ValueError: a NUL in the name.
    except (OSError, ValueError):
        return ""


def in_order(paths: Iterable[CorpusPath]) -> list[CorpusPath]:
    """Sorted by folder and name."""
    return sorted(paths, key=lambda path: path.parts)


def unpacked(path: CorpusPath) -> BinaryIO:
    """What a gzipped file holds, as a stream."""
    return cast(BinaryIO, gzip.open(path if isinstance(path, Path) else path.open("rb")))


def matching_files(
    source: CorpusPath, suffixes: tuple[str, ...], matches: Callable[[CorpusPath], bool]
) -> list[CorpusPath]:
    """The source itself if it is a file, else the files right in it with one of the suffixes; those that match."""
    try:
        if not source.is_dir():
            return [source] if matches(source) else []
        return [path for path in in_order(source.iterdir()) if path.suffix in suffixes and matches(path)]
    except OSError:
        return []


def only_file(
    source: CorpusPath, suffixes: tuple[str, ...], matches: Callable[[CorpusPath], bool], kind: str
) -> CorpusPath:
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
