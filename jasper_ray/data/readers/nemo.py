"""NeMo's manifests: JSON lines with `audio_filepath`, `text`, `duration`; files, pieces of files, or tars of files."""

import json
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

from jasper_ray.data.readers.clips import AudioClip
from jasper_ray.data.readers.corpus import AudioFile, AudioPart, AudioReference, CorpusUtterance, audio_file
from jasper_ray.data.readers.files import file_head, matching_files, only_file
from jasper_ray.errors import DataError
from jasper_ray.storage.store_path import CorpusPath, placed

SUFFIXES = (".json", ".jsonl")
ID_KEYS = ("id", "utt_id")
OWN_KEYS = ("audio_filepath", "text", *ID_KEYS)
# NeMo's tar holds a file once; the second row that cuts from it is named `<stem>-sub1<suffix>`, and so on.
SUB = re.compile(r"-sub\d+$")
# Far longer than any recording: keeps seconds * rate within what a float can hold.
MAX_S = 1e9


@dataclass(frozen=True)
class Row:
    """A checked line of a manifest."""

    where: str
    audio: str
    text: str
    piece_s: tuple[float, float] | None
    """Start and duration where the line has an offset."""
    values: dict[str, Any]


def is_nemo(source: CorpusPath) -> bool:
    """Whether this is such a manifest, or a folder with one in it; told by the first line."""
    return bool(matching_files(source, SUFFIXES, _is_manifest))


def read_nemo(source: CorpusPath) -> Iterator[CorpusUtterance]:
    """Utterances of a manifest, or of the only one in a folder.

    Audio paths are relative to the manifest's folder. Where the first line has a `shard_id`, every line is a member of
    `audio_<shard_id>.tar` beside the manifest, and the order is that of the tars.

    Raises:
        DataError: A line is malformed, or its audio is missing or too short; names file, line and reason.
    """
    file = only_file(source, SUFFIXES, _is_manifest, "NeMo manifest")
    rows = _rows(file)
    first = next(rows, None)
    if first is None:
        return
    rows = chain([first], rows)
    yield from _tarred(file, rows) if "shard_id" in first.values else _plain(file, rows)


def _is_manifest(path: CorpusPath) -> bool:
    line = next((line for line in file_head(path).split("\n") if line.strip()), "")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return isinstance(row, dict) and isinstance(row.get("audio_filepath"), str) and "audio" not in row


def _rows(file: CorpusPath) -> Iterator[Row]:
    try:
        # As bytes: lines then end at \n only, and a line that is not UTF-8 has a number.
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip(b"\xef\xbb\xbf \t\r\n"):
                    yield _row(f"{file}, line {number}", line)
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error}") from error


def _row(where: str, line: bytes) -> Row:
    try:
        row: Any = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: must be an object with audio_filepath and text, got {type(row).__name__}")
    for key in ("audio_filepath", "text"):
        if not isinstance(row.get(key), str):
            raise DataError(f"{where}: {key!r} must be a text, got {row.get(key)!r} (keys: {', '.join(row)})")
    values = {key: value for key, value in row.items() if value is not None}
    piece_s = None
    if "offset" in values:
        piece_s = _seconds(where, values, "offset"), _seconds(where, values, "duration")
    return Row(where, row["audio_filepath"], row["text"], piece_s, values)


def _seconds(where: str, values: dict[str, Any], key: str) -> float:
    value = values.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_S:
        raise DataError(f"{where}: {key!r} must be a number of seconds from 0 to {MAX_S:g}, got {value!r}")
    return float(value)


def _plain(file: CorpusPath, rows: Iterable[Row]) -> Iterator[CorpusUtterance]:
    for row in rows:
        yield _utterance(row, row.audio, audio_file(placed(file.parent, row.audio), where=row.where))


def _tarred(file: CorpusPath, rows: Iterable[Row]) -> Iterator[CorpusUtterance]:
    shards: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        shard_id = row.values.get("shard_id")
        if isinstance(shard_id, bool) or not isinstance(shard_id, int):
            raise DataError(f"{row.where}: 'shard_id' must be a whole number as in the first line, got {shard_id!r}")
        shards[shard_id].append(row)
    for shard_id, members in sorted(shards.items()):
        yield from _shard(file.parent / f"audio_{shard_id}.tar", members)


def _shard(path: CorpusPath, rows: list[Row]) -> Iterator[CorpusUtterance]:
    try:
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            # A sparse file does not lie in one piece; nobody's recordings are one.
            files = (member for member in tar.getmembers() if member.isfile() and not member.issparse())
            members = {_stem(member.name): member for member in files}
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{rows[0].where}: {path} cannot be read: {error}") from error
    wanted = _rows_by_member(path, rows, members)
    for stem, member in members.items():
        for row in wanted[stem]:
            yield _utterance(row, member.name, AudioPart(path, member.offset_data, member.size, row.where))


def _rows_by_member(path: CorpusPath, rows: list[Row], members: dict[str, tarfile.TarInfo]) -> dict[str, list[Row]]:
    wanted: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        # By stem, as NeMo does: its --force_codec changes the suffixes in the tar, not those in the manifest.
        stem = _stem(row.audio)
        member = stem if stem in members else SUB.sub("", stem)
        if member not in members:
            raise DataError(f"{row.where}: {row.audio} is not in {path}")
        wanted[member].append(row)
    return wanted


def _stem(name: str) -> str:
    return PurePosixPath(name).stem


def _utterance(row: Row, path: str, recording: AudioFile | AudioPart) -> CorpusUtterance:
    """An utterance out of the file `path` that the row names, or cuts from."""
    utterance_id = _stem(row.audio)
    audio: AudioReference = recording
    if row.piece_s is not None:
        audio = AudioClip(recording, *row.piece_s, row.where)
        utterance_id = f"{_stem(path)}-{round(row.piece_s[0] * 1000)}"
    utterance_id = next((str(row.values[key]) for key in ID_KEYS if key in row.values), utterance_id)
    fields = {key: str(value) for key, value in row.values.items() if key not in OWN_KEYS}
    return CorpusUtterance(utterance_id, audio, path, row.text, fields.get("speaker", ""), fields)
