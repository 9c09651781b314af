"""A Kaldi data folder: `wav.scp` and `text`, optionally `segments` and `utt2spk`."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from jasper_ray.data.readers.clips import TO_THE_END, AudioClip
from jasper_ray.data.readers.corpus import AudioFile, AudioReference, CorpusUtterance, audio_file
from jasper_ray.errors import DataError
from jasper_ray.storage.store_path import CorpusPath, placed

WAV_SCP, TEXT, SEGMENTS, UTT2SPK = "wav.scp", "text", "segments", "utt2spk"
ARCHIVE_OFFSET = re.compile(r":\d+$")
END_OF_RECORDING = -1.0
# As in Kaldi's extract-segments: a segment that ends this much too late is cut at the recording's end.
OVERSHOOT_S = 0.5
# Far longer than any recording: keeps seconds * rate within what a float can hold.
MAX_S = 1e9

Table = dict[str, tuple[int, str]]
"""Line number and rest of the line by id."""


@dataclass(frozen=True)
class _Piece:
    """What an utterance takes of a recording."""

    utterance_id: str
    recording: str
    start_s: float
    duration_s: float
    where: str
    """File and line that ask for it."""


def is_kaldi(source: CorpusPath) -> bool:
    """Whether a folder has `wav.scp` and `text`."""
    try:
        return (source / WAV_SCP).is_file() and (source / TEXT).is_file()
    except (OSError, ValueError):
        return False


def read_kaldi(source: CorpusPath) -> Iterator[CorpusUtterance]:
    """Utterances of a data folder, in the order of `segments` or else `wav.scp`; paths are relative to the folder.

    Raises:
        DataError: A line is malformed, audio is missing or is a command, or ids of the files do not match; names file,
            line and reason.
    """
    paths = _paths(source)
    texts = _table(source / TEXT)
    pieces = _pieces(source, paths)
    _check_same_utterances(source, texts, pieces)
    speakers = _speakers(source, texts)
    recordings = {name: audio_file(path, where=f"{where}: {name}") for name, (where, path) in paths.items()}
    for piece in pieces:
        utterance_id, speaker = piece.utterance_id, speakers.get(piece.utterance_id, "")
        fields = {"recording": piece.recording} | ({"speaker": speaker} if speaker else {})
        recording = recordings[piece.recording]
        audio = _audio(recording, piece)
        yield CorpusUtterance(utterance_id, audio, str(recording.path), texts[utterance_id][1], speaker, fields)


def _audio(recording: AudioFile, piece: _Piece) -> AudioReference:
    if piece.start_s == 0 and piece.duration_s == TO_THE_END:
        return recording
    return AudioClip(recording, piece.start_s, piece.duration_s, piece.where, overshoot_s=OVERSHOOT_S)


def _paths(source: CorpusPath) -> dict[str, tuple[str, CorpusPath]]:
    """Line of `wav.scp` and audio file by recording; never runs what `wav.scp` may say."""
    file = source / WAV_SCP
    paths = {}
    for recording, (number, value) in _table(file).items():
        where = f"{file}, line {number}"
        if value.endswith("|"):
            raise DataError(
                f"{where}: {recording} is the command {value!r}; commands are never run. Convert the audio to files "
                "first (run the commands yourself, writing WAV or FLAC) and name those"
            )
        if ARCHIVE_OFFSET.search(value):
            raise DataError(
                f"{where}: {recording} lies in the Kaldi archive {value!r}, which is not read. Convert the audio to "
                "files first (Kaldi's wav-copy) and name those"
            )
        paths[recording] = (where, placed(source, value))
    return paths


def _pieces(source: CorpusPath, recordings: Collection[str]) -> list[_Piece]:
    file = source / SEGMENTS
    if not file.exists():
        return [_Piece(recording, recording, 0.0, TO_THE_END, str(source / WAV_SCP)) for recording in recordings]
    pieces = []
    for utterance_id, (number, value) in _table(file).items():
        where = f"{file}, line {number}"
        recording, start_s, duration_s = _segment(where, value)
        if recording not in recordings:
            raise DataError(f"{where}: {utterance_id} is cut from {recording}, which {source / WAV_SCP} does not have")
        pieces.append(_Piece(utterance_id, recording, start_s, duration_s, where))
    unused = sorted(set(recordings) - {piece.recording for piece in pieces})
    if unused:
        raise DataError(f"{file}: has no line for recording {unused[0]} of {WAV_SCP} ({len(unused)} such recordings)")
    return pieces


def _segment(where: str, value: str) -> tuple[str, float, float]:
    """Recording, start and duration of the rest of a line of `segments`."""
    try:
        recording, start, end = value.split()
        start_s, end_s = float(start), float(end)
    except ValueError as error:
        raise DataError(
            f"{where}: must be an utterance, a recording, its start and its end in seconds, got {value!r} after the "
            "utterance"
        ) from error
    if not (0 <= start_s < MAX_S and (end_s == END_OF_RECORDING or start_s < end_s < MAX_S)):
        raise DataError(f"{where}: must have 0 <= start < end (or -1: to the end), got {start} and {end}")
    return recording, start_s, TO_THE_END if end_s == END_OF_RECORDING else end_s - start_s


def _check_same_utterances(source: CorpusPath, texts: Table, pieces: list[_Piece]) -> None:
    heard = {piece.utterance_id for piece in pieces}
    for utterance_id, (number, _) in texts.items():
        if utterance_id not in heard:
            raise DataError(f"{source / TEXT}, line {number}: {utterance_id} has no audio in {SEGMENTS} or {WAV_SCP}")
    for piece in pieces:
        if piece.utterance_id not in texts:
            raise DataError(f"{piece.where}: {piece.utterance_id} has no line in {source / TEXT}")


def _speakers(source: CorpusPath, texts: Table) -> dict[str, str]:
    """Speaker by utterance; empty without `utt2spk`."""
    file = source / UTT2SPK
    if not file.exists():
        return {}
    speakers = {utterance_id: speaker for utterance_id, (_, speaker) in _table(file).items()}
    for utterance_id in texts:
        if utterance_id not in speakers:
            raise DataError(f"{file}: has no line for {utterance_id}")
    return speakers


def _table(file: CorpusPath) -> Table:
    try:
        content = file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error
    table: Table = {}
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        key, *rest = line.strip().split(maxsplit=1)
        if not rest:
            raise DataError(f"{file}, line {number}: must be an id, a space and a value, got {line!r}")
        if key in table:
            raise DataError(f"{file}, line {number}: {key} comes twice, first in line {table[key][0]}")
        table[key] = (number, rest[0])
    return table
