"""NVIDIA Jasper's manifest: one JSON array, an object per utterance with `transcript` and `files`, one per speed."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jasper_ray.data.readers.corpus import CorpusUtterance, audio_file
from jasper_ray.data.readers.files import file_head, matching_files, only_file
from jasper_ray.errors import DataError
from jasper_ray.storage.store_path import CorpusPath, placed

SUFFIXES = (".json",)
MAX_SPEED = 10
SPACE = re.compile(r"\s*")
# NVIDIA's converter names the copies at another speed `103-1240-0000-0.9.wav`.
LIBRISPEECH_STEM = re.compile(r"(\d+)-\d+-\d+(-[\d.]+)?")


def is_nvidia(source: CorpusPath) -> bool:
    """Whether this is such a manifest, or a folder with one in it; told by the first object."""
    return bool(matching_files(source, SUFFIXES, _is_manifest))


def read_nvidia(source: CorpusPath) -> Iterator[CorpusUtterance]:
    """Utterances of a manifest, or of the only one in a folder: one for every speed of every entry.

    Audio is looked for below the manifest's folder, then below the folder above it.

    Raises:
        DataError: An entry is malformed or its audio is missing; names file, line and reason.
    """
    file = only_file(source, SUFFIXES, _is_manifest, "NVIDIA manifest")
    for number, entry in _entries(file):
        yield from _variants(file, f"{file}, line {number}", entry)


def _is_manifest(path: CorpusPath) -> bool:
    head = file_head(path)
    start = _after_space(head, 0)
    if not head.startswith("[", start):
        return False
    try:
        entry, _ = json.JSONDecoder().raw_decode(head, _after_space(head, start + 1))
    except (ValueError, RecursionError):
        return False
    return isinstance(entry, dict) and "transcript" in entry and "files" in entry


def _after_space(text: str, position: int) -> int:
    space = SPACE.match(text, position)
    assert space is not None, "no space at all is a match too"
    return space.end()


def _entries(file: CorpusPath) -> Iterator[tuple[int, Any]]:
    """Every element of the array with the line it starts in, decoded one at a time."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error
    decoder = json.JSONDecoder()
    number, counted = 1, 0

    def skip_space(position: int) -> int:
        nonlocal number, counted
        end = _after_space(text, position)
        number, counted = number + text.count("\n", counted, end), end
        return end

    def expect(allowed: str, position: int) -> str:
        found = text[position : position + 1]
        if not found or found not in allowed:
            raise DataError(f"{file}, line {number}: not a JSON array: must be one of {allowed} here, got {found!r}")
        return found

    position = skip_space(0)
    expect("[", position)
    position = skip_space(position + 1)
    more = text[position : position + 1] != "]"
    while more:
        try:
            entry, end = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise DataError(f"{file}, line {error.lineno}: not JSON: {error.msg}") from error
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}, line {number}: not JSON: {error}") from error
        yield number, entry
        position = skip_space(end)
        more = expect(",]", position) == ","
        if more:
            position = skip_space(position + 1)
    position = skip_space(position + 1)
    if position < len(text):
        raise DataError(f"{file}, line {number}: not JSON: there is more after the array")


def _variants(file: CorpusPath, where: str, entry: Any) -> Iterator[CorpusUtterance]:
    if not isinstance(entry, dict):
        raise DataError(f"{where}: must be an object with transcript and files, got {type(entry).__name__}")
    text, files = entry.get("transcript"), entry.get("files")
    if not isinstance(text, str):
        raise DataError(f"{where}: 'transcript' must be a text, got {text!r} (keys: {', '.join(entry)})")
    if not isinstance(files, list) or not files:
        raise DataError(f"{where}: 'files' must be a list of at least one object, got {files!r}")
    if entry.get("offset"):
        raise DataError(f"{where}: 'offset' must be 0 or absent, got {entry['offset']!r}: pieces of files are not read")
    variants = [_variant(where, variant) for variant in files]
    original = next((name for name, speed in variants if speed == 1), variants[0][0])
    for name, speed in variants:
        stem = Path(name).stem
        fields = {"speed": f"{speed:g}"}
        librispeech = LIBRISPEECH_STEM.fullmatch(stem)
        if librispeech:
            fields["speaker"] = librispeech[1]
        yield CorpusUtterance(
            id=f"{stem}-sp{speed:g}" if speed != 1 and stem == Path(original).stem else stem,
            audio=audio_file(_find(file, where, name), where=where),
            path=name,
            text=text,
            speaker=fields.get("speaker", ""),
            fields=fields,
        )


def _variant(where: str, variant: Any) -> tuple[str, float]:
    """Name and speed of one of an entry's files."""
    if not isinstance(variant, dict) or not isinstance(variant.get("fname"), str):
        raise DataError(f"{where}: each of 'files' must be an object with a text 'fname', got {variant!r}")
    speed = variant.get("speed", 1)
    if isinstance(speed, bool) or not isinstance(speed, int | float) or not 0 < speed <= MAX_SPEED:
        raise DataError(
            f"{where}: 'speed' of {variant['fname']} must be a number above 0 and up to {MAX_SPEED}, got {speed!r}"
        )
    return variant["fname"], speed


def _find(file: CorpusPath, where: str, name: str) -> CorpusPath:
    folder = file.absolute().parent
    for root in (folder, folder.parent):
        try:
            if placed(root, name).is_file():
                return placed(root, name)
        except OSError as error:  # a name too long, a folder that may not be read
            raise DataError(f"{where}: audio {root / name} cannot be read: {error.strerror}") from error
    raise DataError(f"{where}: audio {name} is neither below {folder} nor below {folder.parent}")
