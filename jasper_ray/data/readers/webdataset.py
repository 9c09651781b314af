"""WebDataset tars: the members of a sample share a key, the member's path up to the first dot of its file name."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

from jasper_ray.data.readers.corpus import CorpusUtterance
from jasper_ray.data.readers.files import in_order
from jasper_ray.data.readers.tars import TarFiles, TarredFile
from jasper_ray.errors import DataError
from jasper_ray.storage.store_path import CorpusPath

SUFFIXES = (".tar", ".tar.gz")
AUDIO = ("flac", "wav", "mp3", "ogg", "opus")
TEXT = ("txt", "text", "transcript")
JSON = "json"
JSON_TEXT_KEYS = ("text", "transcript")
# Members that are looked at to tell the format: a first sample has a handful.
MAX_PROBED_MEMBERS = 32


@dataclass(frozen=True)
class _Member:
    """A file of a tar as part of a sample."""

    key: str
    extension: str
    file: TarredFile
    content: bytes
    """Of text and JSON; empty for others."""


def is_webdataset(source: CorpusPath) -> bool:
    """Whether a tar, or the first directly in a folder, begins with a sample of audio and text."""
    try:
        with TarFiles(_tars(source)[0]) as files:
            members = list(islice(_members(files), MAX_PROBED_MEMBERS))
        for _, group in groupby(members, key=lambda member: member.key):
            extensions = {member.extension for member in group}
            if not extensions.isdisjoint(AUDIO):
                return not extensions.isdisjoint((*TEXT, JSON))
    except (IndexError, OSError, ValueError):
        pass
    return False


def read_webdataset(source: CorpusPath) -> Iterator[CorpusUtterance]:
    """Utterances of a tar, or of all directly in a folder; of a plain tar no audio is read.

    Raises:
        DataError: A tar is cut short or damaged, or a sample lacks audio or text; names tar, key and reason.
    """
    tars = _tars(source)
    if not tars:
        raise DataError(f"{source}: no {' or '.join(SUFFIXES)} in it, so it is not in WebDataset's layout")
    for tar in tars:
        with TarFiles(tar) as files:
            for key, group in groupby(_members(files), key=lambda member: member.key):
                yield _utterance(files, key, group)


def _tars(source: CorpusPath) -> list[CorpusPath]:
    return in_order(f for f in source.iterdir() if f.name.endswith(SUFFIXES)) if source.is_dir() else [source]


def _members(files: TarFiles) -> Iterator[_Member]:
    for file in files:
        folder, slash, file_name = file.name.removeprefix("./").rpartition("/")
        stem, _, extension = file_name.partition(".")
        # A file that begins with a dot is the system's, not a sample's.
        if stem:
            extension = extension.lower()
            content = files.read(file) if extension in (*TEXT, JSON) else b""
            yield _Member(folder + slash + stem, extension, file, content)


def _utterance(files: TarFiles, key: str, group: Iterator[_Member]) -> CorpusUtterance:
    where = f"{files.path}, key {key}"
    members: dict[str, _Member] = {}
    for member in group:
        other = members.setdefault(member.extension, member)
        if other is not member:
            raise DataError(f"{where}: has two members .{member.extension}: {other.file.name} and {member.file.name}")
    audio = [extension for extension in members if extension in AUDIO]
    if len(audio) != 1:
        raise DataError(
            f"{where}: must have one member of audio ({', '.join(AUDIO)}), has {len(audio)} among the adjacent "
            f"members {', '.join(member.file.name for member in members.values())}"
        )
    row = _json(where, members[JSON].content) if JSON in members else {}
    fields = {name: str(value) for name, value in row.items() if isinstance(value, str | int | float)}
    recording = members[audio[0]].file
    return CorpusUtterance(
        id=key,
        audio=files.reference(recording, where=where),
        path=f"{files.path}/{recording.name}",
        text=_text(where, members, row),
        speaker=fields.get("speaker", ""),
        fields={name: value for name, value in fields.items() if name not in JSON_TEXT_KEYS},
    )


def _text(where: str, members: Mapping[str, _Member], row: Mapping[str, Any]) -> str:
    """The transcript of the first text member there is, else of the JSON."""
    for extension in TEXT:
        if extension in members:
            try:
                return members[extension].content.decode("utf-8-sig").strip()
            except UnicodeDecodeError as error:
                raise DataError(f"{where}: .{extension} is not UTF-8: {error}") from error
    for name in JSON_TEXT_KEYS:
        if isinstance(row.get(name), str):
            return str(row[name])
    raise DataError(
        f"{where}: has no text: no member {', '.join(f'.{extension}' for extension in TEXT)} next to its audio, and no "
        f".json with a text under {' or '.join(JSON_TEXT_KEYS)}"
    )


def _json(where: str, content: bytes) -> dict[str, Any]:
    try:
        row = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: .{JSON} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: .{JSON} must be an object, got {type(row).__name__}")
    return row
