"""Tables: DeepSpeech's CSV (`wav_filename`, `transcript`) and Common Voice's TSV (`client_id`, `path`, `sentence`)."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jasper_ray.data.readers.corpus import CorpusUtterance, audio_file
from jasper_ray.data.readers.files import file_head
from jasper_ray.errors import DataError
from jasper_ray.storage.store_path import CorpusPath, placed

SPLITS = ("train.tsv", "dev.tsv", "test.tsv")


@dataclass(frozen=True)
class Layout:
    """Which columns of a table are what."""

    delimiter: str
    quoting: Literal[0, 3]
    """`csv.QUOTE_MINIMAL` or `csv.QUOTE_NONE`."""
    audio: str
    text: str
    speaker: str
    folder: str
    """Where the audio is, relative to the table's folder."""
    required: tuple[str, ...]


DEEPSPEECH = Layout(",", csv.QUOTE_MINIMAL, "wav_filename", "transcript", "speaker", "", ("wav_filename", "transcript"))
# Common Voice writes quotes as they are: one that opens a sentence would otherwise swallow the lines after it.
COMMON_VOICE = Layout("\t", csv.QUOTE_NONE, "path", "sentence", "client_id", "clips", ("client_id", "path", "sentence"))


def is_table(source: CorpusPath) -> bool:
    """Whether this is such a table, or a folder of a Common Voice release; told by the header."""
    try:
        files = [source / name for name in SPLITS] if source.is_dir() else [source]
    except OSError:
        return False
    return any(_has_header(file) for file in files)


def read_table(source: CorpusPath) -> Iterator[CorpusUtterance]:
    """Utterances of a table, or of `train.tsv`, `dev.tsv` and `test.tsv` in a folder.

    Audio paths are relative to the folder of a CSV, and to `clips/` beside a TSV.

    Raises:
        DataError: Columns are missing, a line is malformed or its audio is missing; names file, line and reason.
    """
    files = [source / name for name in SPLITS if (source / name).is_file()] if source.is_dir() else [source]
    if not files:
        raise DataError(f"{source}: has none of {', '.join(SPLITS)}. Give the table instead of the folder")
    for file in files:
        layout = _layout(file)
        for where, row in _rows(file, layout):
            yield _utterance(file, where, row, layout)


def _header(file: CorpusPath) -> str:
    return file_head(file).partition("\n")[0].rstrip("\r")


def _has_header(file: CorpusPath) -> bool:
    header = _header(file)
    return any(
        set(layout.required) <= {name.strip('"') for name in header.split(layout.delimiter)}
        for layout in (DEEPSPEECH, COMMON_VOICE)
    )


def _layout(file: CorpusPath) -> Layout:
    return COMMON_VOICE if "\t" in _header(file) or file.suffix == ".tsv" else DEEPSPEECH


def _rows(file: CorpusPath, layout: Layout) -> Iterator[tuple[str, dict[str, str]]]:
    """Every row by column name, with its place; a row's line is the one it ends in."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines, delimiter=layout.delimiter, quoting=layout.quoting, strict=True)
            try:
                header = next(reader, [])
                missing = [name for name in layout.required if name not in header]
                if missing:
                    raise DataError(
                        f"{file}, line 1: lacks {', '.join(missing)}: expected {', '.join(layout.required)}, "
                        f"got {', '.join(header) or 'nothing'}"
                    )
                for row in reader:
                    where = f"{file}, line {reader.line_num}"
                    if len(row) not in (0, len(header)):
                        raise DataError(f"{where}: must have {len(header)} columns as line 1 has, got {len(row)}")
                    if row:
                        yield where, dict(zip(header, row, strict=True))
            except csv.Error as error:
                raise DataError(f"{file}, line {reader.line_num}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from error


def _utterance(file: CorpusPath, where: str, row: dict[str, str], layout: Layout) -> CorpusUtterance:
    name = row[layout.audio]
    if not name:
        raise DataError(f"{where}: {layout.audio} is empty")
    own = (layout.audio, layout.text, layout.speaker)
    fields = {key: value for key, value in row.items() if key not in own and value}
    speaker = row.get(layout.speaker, "")
    if speaker:
        fields["speaker"] = speaker
    if layout is COMMON_VOICE:
        fields["split"] = file.stem
    return CorpusUtterance(
        id=Path(name).stem,
        audio=audio_file(placed(file.parent / layout.folder, name), where=where),
        path=name,
        text=row[layout.text],
        speaker=speaker,
        fields=fields,
    )
