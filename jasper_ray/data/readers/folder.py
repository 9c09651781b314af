"""A folder of audio files without transcripts, such as noises and room impulse responses: every audio file below it."""

import os
from collections.abc import Iterator
from pathlib import Path

from jasper_ray.data.readers.corpus import CorpusUtterance, audio_file
from jasper_ray.errors import DataError

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".m4a", ".webm")


def read_folder(source: Path) -> Iterator[CorpusUtterance]:
    """Recordings in the order of their paths, which are their ids; hidden files are passed over.

    Raises:
        DataError: `source` is no folder, or has no audio file in it.
    """
    if not source.is_dir():
        raise DataError(f"{source}: must be a folder of audio files")
    num_files = 0
    for folder, folders, names in os.walk(source):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder) / name
            if path.suffix.lower() in SUFFIXES and not name.startswith("."):
                num_files += 1
                place = path.relative_to(source).as_posix()
                yield CorpusUtterance(place, audio_file(path, where=str(source)), place, text="", speaker="")
    if not num_files:
        raise DataError(f"{source}: has no audio file in it ({', '.join(SUFFIXES)})")
