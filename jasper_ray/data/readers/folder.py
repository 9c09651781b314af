"""A folder of audio files without transcripts, such as noises and room impulse responses: every audio file below it."""

from collections.abc import Iterator

from jasper_ray.data.readers.corpus import CorpusUtterance, audio_file
from jasper_ray.errors import DataError
from jasper_ray.storage.store_path import CorpusPath

SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".m4a", ".webm")


def read_folder(source: CorpusPath) -> Iterator[CorpusUtterance]:
    """Recordings in the order of their paths, which are their ids; hidden files are passed over.

    Raises:
        DataError: `source` is no folder, or has no audio file in it.
    """
    if not source.is_dir():
        raise DataError(f"{source}: must be a folder of audio files")
    num_files = 0
    places = (path.parts[len(source.parts) :] for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
    for place in sorted(places, key=_order):
        if not any(part.startswith(".") for part in place):
            num_files += 1
            name = "/".join(place)
            yield CorpusUtterance(name, audio_file(source / name, where=str(source)), name, text="", speaker="")
    if not num_files:
        raise DataError(f"{source}: has no audio file in it ({', '.join(SUFFIXES)})")


def _order(place: tuple[str, ...]) -> tuple[tuple[bool, str], ...]:
    """Files of a folder before those of its folders."""
    return (*((True, folder) for folder in place[:-1]), (False, place[-1]))
