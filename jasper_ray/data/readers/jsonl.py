"""JSON lines: an object per utterance with `audio` (path) and `text`; `id`, `speaker` and other keys are optional."""

import json
from collections.abc import Iterator
from typing import Any

from jasper_ray.data.readers.corpus import CorpusUtterance, audio_file
from jasper_ray.errors import DataError
from jasper_ray.storage.store_path import CorpusPath, placed

MANIFEST_FILE = "manifest.jsonl"
OWN_KEYS = ("audio", "text", "id")


def is_jsonl(source: CorpusPath) -> bool:
    """Whether this is a folder with a `manifest.jsonl`, or a `.jsonl` file, whose first object has `audio`."""
    file = source / MANIFEST_FILE if source.is_dir() else source
    if not file.is_file() or file.suffix != ".jsonl":
        return False
    try:
        with file.open(encoding="utf-8-sig") as lines:
            row = json.loads(next((line for line in lines if line.strip()), ""))
    except (OSError, ValueError):
        return True  # by its name; reading it says what is wrong
    return isinstance(row, dict) and "audio" in row


def read_jsonl(source: CorpusPath) -> Iterator[CorpusUtterance]:
    """Utterances of a `.jsonl` file, or of the `manifest.jsonl` in a folder; audio paths are relative to its folder.

    Raises:
        DataError: A line is malformed or its audio is missing; names file, line and reason.
    """
    file = source / MANIFEST_FILE if source.is_dir() else source
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error
    # Not splitlines(): it also splits at U+2028 and others, which JSON texts may hold as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _utterance(file, number, line)


def _utterance(file: CorpusPath, number: int, line: str) -> CorpusUtterance:
    where = f"{file}, line {number}"
    try:
        row: Any = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: must be an object with audio and text, got {type(row).__name__}")
    for key in ("audio", "text"):
        if not isinstance(row.get(key), str):
            raise DataError(f"{where}: {key!r} must be a text, got {row.get(key)!r} (keys: {', '.join(map(str, row))})")
    path = placed(file.parent, row["audio"])
    fields = {str(key): str(value) for key, value in row.items() if key not in OWN_KEYS and value is not None}
    return CorpusUtterance(
        id=path.stem if row.get("id") is None else str(row["id"]),
        audio=audio_file(path, where=where),
        path=str(row["audio"]),
        text=row["text"],
        speaker=fields.get("speaker", ""),
        fields=fields,
    )
