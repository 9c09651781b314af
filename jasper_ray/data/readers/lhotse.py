"""A Lhotse cuts manifest, `.jsonl` or `.jsonl.gz`: a line per cut, an utterance per supervision of it."""

import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from jasper_ray.data.readers.clips import AudioClip
from jasper_ray.data.readers.corpus import CorpusUtterance, audio_file
from jasper_ray.data.readers.files import in_order, unpacked
from jasper_ray.errors import DataError
from jasper_ray.storage.store_path import CorpusPath, placed

SUFFIXES = (".jsonl", ".jsonl.gz")
CUT_TYPES = ("MonoCut", "MultiCut", "MixedCut", "PaddingCut")
STORE_SCHEMES = ("s3://", "gs://")
OWN_KEYS = ("id", "text", "start", "duration", "channel")
# Far longer than any recording: keeps seconds * rate within what a float can hold.
MAX_S = 1e9
# A cut of hours with aligned words takes megabytes; what has no line end within this is no manifest.
MAX_FIRST_LINE_BYTES = 2**24


@dataclass(frozen=True)
class _Piece:
    """What a supervision takes of a recording."""

    path: CorpusPath
    start_s: float
    duration_s: float
    supervision: Mapping[str, Any]
    where: str
    """File and line that ask for it."""


def is_lhotse(source: CorpusPath) -> bool:
    """Whether a file, or one directly in a folder, is a manifest of cuts by its first line."""
    try:
        return bool(_manifests(source))
    except OSError:
        return False


def read_lhotse(source: CorpusPath) -> Iterator[CorpusUtterance]:
    """Utterances of a cuts manifest, or of all directly in a folder; audio paths are relative to the manifest's folder.

    Raises:
        DataError: A line is malformed, is no plain cut with transcripts, or its audio is missing or not a file; names
            file, line and reason.
    """
    manifests = _manifests(source) if source.is_dir() else [source]
    if not manifests:
        raise DataError(f"{source}: no manifest of cuts ({', '.join(SUFFIXES)}) in it, so it is not in Lhotse's layout")
    for manifest in manifests:
        yield from map(_utterance, _pieces(manifest))


def _utterance(piece: _Piece) -> CorpusUtterance:
    recording = audio_file(piece.path, where=piece.where)
    supervision = piece.supervision
    return CorpusUtterance(
        id=str(supervision["id"]),
        audio=AudioClip(recording, piece.start_s, piece.duration_s, piece.where, only_mono=True),
        path=str(piece.path),
        text=supervision["text"],
        speaker=str(supervision.get("speaker") or ""),
        fields=_scalars(supervision.get("custom") or {}) | _scalars(supervision),
    )


def _pieces(manifest: CorpusPath) -> Iterator[_Piece]:
    for number, line in _lines(manifest):
        where = f"{manifest}, line {number}"
        try:
            cut: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where}: not JSON: {error}") from error
        if not isinstance(cut, dict) or cut.get("type") not in CUT_TYPES:
            raise DataError(f"{where}: must be a cut, an object with 'type': 'MonoCut'")
        if cut["type"] != "MonoCut":
            raise DataError(
                f"{where}: is a {cut['type']}; only MonoCut is read. Save it as audio first (CutSet.save_audios)"
            )
        path = _audio_path(manifest, where, cut)
        start_s = _seconds(where, "start", cut)
        for supervision in _supervisions(where, cut):
            first_s = start_s + _seconds(where, "start", supervision)
            yield _Piece(path, first_s, _seconds(where, "duration", supervision), supervision, where)


def _audio_path(manifest: CorpusPath, where: str, cut: Mapping[str, Any]) -> CorpusPath:
    recording = cut.get("recording")
    sources = recording.get("sources") if isinstance(recording, dict) else None
    if not isinstance(recording, dict) or not isinstance(sources, list):
        raise DataError(f"{where}: 'recording' must be an object with 'sources', got {recording!r}")
    if recording.get("transforms"):
        raise DataError(f"{where}: the recording has transforms, which are not applied. Save it as audio first")
    channel = cut.get("channel", 0)
    for source in sources:
        if not isinstance(source, dict) or not isinstance(source.get("channels"), list):
            raise DataError(f"{where}: a source must be an object with 'type', 'channels' and 'source', got {source!r}")
        if channel not in source["channels"]:
            continue
        path = source.get("source")
        if not isinstance(path, str):
            raise DataError(f"{where}: 'source' must be a path, got {path!r}")
        if source.get("type") != "file" and not (source.get("type") == "url" and path.startswith(STORE_SCHEMES)):
            raise DataError(
                f"{where}: audio is a source of type {source.get('type')!r}; only 'file' is read, and 'url' with "
                "s3:// or gs://; commands are never run. Save it as audio first (CutSet.save_audios)"
            )
        return placed(manifest.parent, path)
    raise DataError(f"{where}: no source of the recording has channel {channel!r}")


def _supervisions(where: str, cut: Mapping[str, Any]) -> list[dict[str, Any]]:
    supervisions = cut.get("supervisions")
    if not isinstance(supervisions, list) or not supervisions:
        raise DataError(f"{where}: cut {cut.get('id')!r} has no supervisions, so no transcript")
    for supervision in supervisions:
        if not isinstance(supervision, dict) or supervision.get("id") is None:
            raise DataError(f"{where}: a supervision must be an object with 'id' and 'text', got {supervision!r}")
        text = supervision.get("text")
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{where}: 'text' of supervision {supervision['id']!r} must be a text, got {text!r}")
    return supervisions


def _seconds(where: str, key: str, row: Mapping[str, Any]) -> float:
    value = row.get(key)
    # A comparison with NaN is false.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < MAX_S:
        raise DataError(f"{where}: {key!r} of {row.get('id')!r} must be seconds, got {value!r}")
    return float(value)


def _scalars(row: object) -> dict[str, str]:
    items = row.items() if isinstance(row, dict) else ()
    scalars = {str(key): str(value) for key, value in items if isinstance(value, str | int | float)}
    return {key: value for key, value in scalars.items() if key not in OWN_KEYS}


def _manifests(source: CorpusPath) -> list[CorpusPath]:
    files = in_order(f for f in source.iterdir() if f.name.endswith(SUFFIXES)) if source.is_dir() else [source]
    return [file for file in files if _begins_with_cut(file)]


def _begins_with_cut(file: CorpusPath) -> bool:
    try:
        with _open(file) as stream:
            line = stream.readline(MAX_FIRST_LINE_BYTES)
        cut = json.loads(line.decode("utf-8-sig"))
    except (OSError, EOFError, zlib.error, ValueError, RecursionError):
        return False
    return isinstance(cut, dict) and cut.get("type") in CUT_TYPES


def _open(file: CorpusPath) -> BinaryIO:
    with file.open("rb") as stream:
        is_gzip = stream.read(2) == b"\x1f\x8b"
    return unpacked(file) if is_gzip else file.open("rb")


def _lines(manifest: CorpusPath) -> Iterator[tuple[int, str]]:
    """Number and text of each line that is not blank; one in memory at a time."""
    number = 0
    try:
        with _open(manifest) as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, line.decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{manifest}: cannot be read around line {max(number, 1)}: {error}") from error
