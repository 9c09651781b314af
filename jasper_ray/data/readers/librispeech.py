"""LibriSpeech's layout: `<subset>/<speaker>/<chapter>/`, in it `<id>.flac` and `<speaker>-<chapter>.trans.txt`.

It may lie in a folder, or in a tar as it is published.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import PurePosixPath

from jasper_ray.data.readers.corpus import AudioReference, CorpusUtterance, audio_file
from jasper_ray.data.readers.files import in_order
from jasper_ray.data.readers.tars import TarFiles, TarredFile
from jasper_ray.errors import DataError
from jasper_ray.storage.store_path import CorpusPath

TRANSCRIPTS_SUFFIX = ".trans.txt"
TRANSCRIPTS = f"*{TRANSCRIPTS_SUFFIX}"
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
RECORDING = re.compile(r"(^|/)\d+/\d+/\d+-\d+-\d+\.flac$")
# Files that are looked at to tell a tar: the corpus's own begins with a few about the corpus.
MAX_PROBED_FILES = 64

FindAudio = Callable[[str, str], AudioReference]
"""The audio of an utterance, by its id and the place that names it."""


def is_librispeech(source: CorpusPath) -> bool:
    """Whether a folder has LibriSpeech's transcripts somewhere below, or a tar its recordings."""
    if source.is_dir():
        return next(source.rglob(TRANSCRIPTS), None) is not None
    if not source.name.endswith(TAR_SUFFIXES):
        return False
    try:
        with TarFiles(source) as files:
            names = [file.name for file in islice(files, MAX_PROBED_FILES)]
    except DataError:
        return False
    recordings = {name.removesuffix(".flac") for name in names if RECORDING.search(name)}
    # A file of the same name with the text, say, is WebDataset's way.
    others = {name.rpartition(".")[0] for name in names if not name.endswith(".flac")}
    return bool(recordings) and recordings.isdisjoint(others)


def read_librispeech(source: CorpusPath) -> Iterator[CorpusUtterance]:
    """Utterances below a folder, which may be the corpus, a subset, a speaker or a chapter, or in a tar of such.

    Raises:
        DataError: There are no transcripts, a line is malformed, or audio and transcripts do not match; names the file.
    """
    found = False
    for utterance in _in_folder(source) if source.is_dir() else _in_tar(source):
        found = True
        yield utterance
    if not found:
        raise DataError(f"{source}: no {TRANSCRIPTS} below it, so it is not in LibriSpeech's layout")


def _in_folder(source: CorpusPath) -> Iterator[CorpusUtterance]:
    for transcripts in in_order(source.rglob(TRANSCRIPTS)):
        try:
            content = transcripts.read_bytes()
        except OSError as error:
            raise DataError(f"{transcripts}: cannot be read: {error}") from error
        # Resolved, so that the folders above are known when the source is the current folder.
        folder = transcripts.resolve().parent
        recordings = {path.stem for path in folder.glob("*.flac")}
        find = partial(_find_file, folder)
        yield from _chapter(str(transcripts), content, folder.parts, recordings, find)


def _find_file(folder: CorpusPath, utterance_id: str, where: str) -> AudioReference:
    return audio_file(folder / f"{utterance_id}.flac", where=where)


def _in_tar(source: CorpusPath) -> Iterator[CorpusUtterance]:
    transcripts: dict[PurePosixPath, bytes] = {}
    recordings: dict[PurePosixPath, dict[str, TarredFile]] = defaultdict(dict)
    with TarFiles(source) as files:
        for file in files:
            path = PurePosixPath(file.name)
            if path.name.endswith(TRANSCRIPTS_SUFFIX):
                transcripts[path] = files.read(file)
            elif path.suffix == ".flac":
                recordings[path.parent][path.stem] = file
        in_order = sorted(transcripts.items())
        if files.is_gzip:  # which is unpacked from its beginning whenever somebody goes far back
            first = {folder: min(file.offset for file in there.values()) for folder, there in recordings.items()}
            in_order.sort(key=lambda item: first.get(item[0].parent, 0))
        for path, content in in_order:
            there = recordings[path.parent]

            def find(utterance_id: str, where: str, there: Mapping[str, TarredFile] = there) -> AudioReference:
                if utterance_id not in there:
                    raise DataError(f"{where}: audio {utterance_id}.flac is not in {source}")
                return files.reference(there[utterance_id], where=where)

            yield from _chapter(f"{source}/{path}", content, path.parent.parts, there, find)


def _chapter(
    transcripts: str, content: bytes, folder: Sequence[str], recordings: Collection[str], find: FindAudio
) -> Iterator[CorpusUtterance]:
    lines = _lines(transcripts, content)
    unheard = sorted(set(recordings) - lines.keys())
    if unheard:
        raise DataError(f"{transcripts}: has no line for {unheard[0]}.flac ({len(unheard)} such files)")
    subset, speaker, chapter = ("", "", *folder)[-3:]
    for utterance_id, (number, text) in lines.items():
        audio = find(utterance_id, f"{transcripts}, line {number}: {utterance_id}")
        fields = {"subset": subset, "speaker": speaker, "chapter": chapter}
        path = f"{subset}/{speaker}/{chapter}/{utterance_id}.flac"
        yield CorpusUtterance(utterance_id, audio, path, text, speaker, fields)


def _lines(transcripts: str, content: bytes) -> dict[str, tuple[int, str]]:
    """Line number and transcript by utterance id."""
    try:
        decoded = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{transcripts}: cannot be read: {error}") from error
    lines: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(decoded.split("\n"), start=1):
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
