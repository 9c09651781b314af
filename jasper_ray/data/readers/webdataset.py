"""WebDataset tars: the members of a sample share a key, the member's path up to the first dot of its file name."""

import json
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from jasper_ray.data.readers.corpus import CorpusUtterance
from jasper_ray.errors import DataError

SUFFIXES = (".tar", ".tar.gz")
AUDIO = ("flac", "wav", "mp3", "ogg", "opus")
TEXT = ("txt", "text", "transcript")
JSON = "json"
JSON_TEXT_KEYS = ("text", "transcript")
# Members that are looked at to tell the format: a first sample has a handful.
MAX_PROBED_MEMBERS = 32


class _Header(tarfile.TarInfo):
    """A member's header; where tarfile takes a missing or damaged one as the end of the archive, it is an error."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        if len(buf) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it ends without the mark of a tar's end, so it was cut short")
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if any(buf):
                raise tarfile.ReadError(f"damaged header: {error}") from error
            raise


def is_webdataset(source: Path) -> bool:
    """Whether a tar, or the first directly in a folder, begins with a sample of audio and text."""
    try:
        members = islice(_members(_tars(source)[0], wanted=()), MAX_PROBED_MEMBERS)
        for _, group in groupby(members, key=lambda member: member[0]):
            extensions = {extension for _, extension, _, _ in group}
            if not extensions.isdisjoint(AUDIO):
                return not extensions.isdisjoint((*TEXT, JSON))
    except (IndexError, OSError, ValueError):
        pass
    return False


def read_webdataset(source: Path) -> Iterator[CorpusUtterance]:
    """Utterances of a tar, or of all directly in a folder, one sample in memory at a time.

    Raises:
        DataError: A tar is cut short or damaged, or a sample lacks audio or text; names tar, key and reason.
    """
    tars = _tars(source)
    if not tars:
        raise DataError(f"{source}: no {' or '.join(SUFFIXES)} in it, so it is not in WebDataset's layout")
    for tar in tars:
        members = _members(tar, wanted=(*AUDIO, *TEXT, JSON))
        for key, group in groupby(members, key=lambda member: member[0]):
            yield _utterance(tar, key, group)


def _tars(source: Path) -> list[Path]:
    return sorted(file for file in source.iterdir() if file.name.endswith(SUFFIXES)) if source.is_dir() else [source]


def _members(tar: Path, *, wanted: tuple[str, ...]) -> Iterator[tuple[str, str, str, bytes]]:
    """Key, extension, name and content of each file in a tar; no content unless the extension is wanted."""
    try:
        with tarfile.open(tar, mode="r|*", tarinfo=_Header) as archive:
            while (member := archive.next()) is not None:
                folder, slash, file_name = member.name.removeprefix("./").rpartition("/")
                stem, _, extension = file_name.partition(".")
                # A file that begins with a dot is the system's, not a sample's.
                if member.isfile() and stem:
                    extension = extension.lower()
                    stream = archive.extractfile(member) if extension in wanted else None
                    yield folder + slash + stem, extension, member.name, stream.read() if stream else b""
                # tarfile keeps the header of every member it has passed: a gigabyte for a million.
                archive.members.clear()  # type: ignore[attr-defined]
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{tar}: cannot be read as a tar: {error}") from error


def _utterance(tar: Path, key: str, members: Iterator[tuple[str, str, str, bytes]]) -> CorpusUtterance:
    where = f"{tar}, key {key}"
    contents: dict[str, bytes] = {}
    names: dict[str, str] = {}
    for _, extension, name, content in members:
        if extension in contents:
            raise DataError(f"{where}: has two members .{extension}: {names[extension]} and {name}")
        contents[extension], names[extension] = content, name
    audio = [extension for extension in contents if extension in AUDIO]
    if len(audio) != 1:
        raise DataError(
            f"{where}: must have one member of audio ({', '.join(AUDIO)}), has {len(audio)} among the adjacent "
            f"members {', '.join(names.values())}"
        )
    row = _json(where, contents[JSON]) if JSON in contents else {}
    fields = {name: str(value) for name, value in row.items() if isinstance(value, str | int | float)}
    return CorpusUtterance(
        id=key,
        audio=contents[audio[0]],
        path=f"{tar}/{names[audio[0]]}",
        text=_text(where, contents, row),
        speaker=fields.get("speaker", ""),
        fields={name: value for name, value in fields.items() if name not in JSON_TEXT_KEYS},
    )


def _text(where: str, contents: Mapping[str, bytes], row: Mapping[str, Any]) -> str:
    """The transcript of the first text member there is, else of the JSON."""
    for extension in TEXT:
        if extension in contents:
            try:
                return contents[extension].decode("utf-8-sig").strip()
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
