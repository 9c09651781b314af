"""LibriSpeech's layout: `<subset>/<speaker>/<chapter>/`, in it `<id>.flac` and `<speaker>-<chapter>.trans.txt`."""

from collections.abc import Iterator
from pathlib import Path

from jasper_ray.data.readers.corpus import CorpusUtterance, audio_file
from jasper_ray.errors import DataError

TRANSCRIPTS = "*.trans.txt"


def is_librispeech(source: Path) -> bool:
    """Whether a folder has LibriSpeech's transcripts somewhere below."""
    return source.is_dir() and next(source.rglob(TRANSCRIPTS), None) is not None


def read_librispeech(source: Path) -> Iterator[CorpusUtterance]:
    """Utterances below a folder, which may be the corpus, a subset, a speaker or a chapter.

    Raises:
        DataError: There are no transcripts, a line is malformed, or audio and transcripts do not match; names the file.
    """
    found = False
    for transcripts in sorted(source.rglob(TRANSCRIPTS)):
        found = True
        yield from _chapter(transcripts)
    if not found:
        raise DataError(f"{source}: no {TRANSCRIPTS} below it, so it is not in LibriSpeech's layout")


def _chapter(transcripts: Path) -> Iterator[CorpusUtterance]:
    # Resolved, so that the folders above are known when the source is the current folder.
    folder = transcripts.resolve().parent
    lines = _lines(transcripts)
    unheard = sorted({path.stem for path in folder.glob("*.flac")} - lines.keys())
    if unheard:
        raise DataError(f"{transcripts}: has no line for {folder / unheard[0]}.flac ({len(unheard)} such files)")
    subset, speaker, chapter = ("", "", *folder.parts)[-3:]
    for utterance_id, (number, text) in lines.items():
        path = folder / f"{utterance_id}.flac"
        audio = audio_file(path, where=f"{transcripts}, line {number}: {utterance_id}")
        fields = {"subset": subset, "speaker": speaker, "chapter": chapter}
        yield CorpusUtterance(utterance_id, audio, f"{subset}/{speaker}/{chapter}/{path.name}", text, speaker, fields)


def _lines(transcripts: Path) -> dict[str, tuple[int, str]]:
    """Line number and transcript by utterance id."""
    try:
        content = transcripts.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{transcripts}: cannot be read: {error}") from error
    lines: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        utterance_id, space, text = line.strip().partition(" ")
        if not space:
            raise DataError(f"{transcripts}, line {number}: must be an id, a space and a transcript, got {line!r}")
        if utterance_id in lines:
            raise DataError(
                f"{transcripts}, line {number}: {utterance_id} comes twice, first in line {lines[utterance_id][0]}"
            )
        lines[utterance_id] = (number, text)
    return lines
