"""Hugging Face parquet files: a row per utterance, the encoded file in an `audio` column of `bytes` and `path`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jasper_ray.data.readers.corpus import CorpusUtterance
from jasper_ray.errors import DataError

PATTERN = "*.parquet"
AUDIO = "audio"
TEXT_COLUMNS = ("text", "sentence", "transcription", "transcript", "normalized_text")
ID_COLUMNS = ("id", "utterance_id")
SPEAKER_COLUMNS = ("speaker_id", "speaker", "client_id")
SPLITS = ("train", "validation", "test", "dev")
# Rows in memory at a time: a row group may hold a thousand recordings.
BATCH_ROWS = 16


def is_huggingface(source: Path) -> bool:
    """Whether a file, or the first parquet file below a folder, has a column of audio and one of text."""
    try:
        files = _files(source)
        return bool(files) and not _lacks(pq.read_schema(files[0]))
    except (OSError, ValueError, pa.ArrowException):
        return False


def read_huggingface(source: Path) -> Iterator[CorpusUtterance]:
    """Utterances of a parquet file, or of all below a folder; rows count from 0, in ids and in messages.

    Raises:
        DataError: A file is not of this format or damaged, or a row lacks text or audio; names file, row and reason.
    """
    files = _files(source)
    if not files:
        raise DataError(f"{source}: no {PATTERN} below it, so it is not in Hugging Face's layout")
    for file in files:
        for number, row in enumerate(_rows(file)):
            yield _utterance(file, number, row)


def _files(source: Path) -> list[Path]:
    return sorted(source.rglob(PATTERN)) if source.is_dir() else [source]


def _lacks(schema: pa.Schema) -> str:
    """What a file of this schema lacks to be a corpus; empty if nothing."""
    columns = dict(zip(schema.names, schema.types, strict=True))
    audio = columns.get(AUDIO)
    if audio is None or not pa.types.is_struct(audio) or {"bytes", "path"}.isdisjoint(field.name for field in audio):
        return f"column {AUDIO!r}, a struct of bytes and path"
    if not any(name in columns for name in TEXT_COLUMNS):
        return f"text column ({', '.join(TEXT_COLUMNS)})"
    return ""


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """Audio and scalar columns of each row."""
    try:
        with pq.ParquetFile(file) as parquet:
            schema = parquet.schema_arrow
            lacks = _lacks(schema)
            if lacks:
                raise DataError(f"{file}: has no {lacks}; it has: {', '.join(schema.names)}")
            columns = [field.name for field in schema if field.name == AUDIO or _is_scalar(field.type)]
            for batch in parquet.iter_batches(batch_size=BATCH_ROWS, columns=columns):
                yield from batch.to_pylist()
    except DataError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{file}: cannot be read as parquet: {error}") from error


def _is_scalar(kind: pa.DataType) -> bool:
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    return not (pa.types.is_nested(kind) or is_bytes)


def _utterance(file: Path, number: int, row: Mapping[str, Any]) -> CorpusUtterance:
    where = f"{file}, row {number}"
    text_column = next((name for name in TEXT_COLUMNS if name in row), TEXT_COLUMNS[0])
    if not isinstance(row.get(text_column), str):
        raise DataError(f"{where}: {text_column!r} must be a text, got {row.get(text_column)!r}")
    audio = row[AUDIO] or {}
    path = audio.get("path") or ""
    number_id = f"{file.stem}-{number}"
    own = (AUDIO, text_column, *ID_COLUMNS)
    fields = {name: str(value) for name, value in row.items() if name not in own and value is not None}
    speaker = _first(row, SPEAKER_COLUMNS)
    split = file.stem.partition("-")[0]
    return CorpusUtterance(
        id=_first(row, ID_COLUMNS) or Path(path).stem or number_id,
        audio=_content(file, where, audio),
        path=path or number_id,
        text=row[text_column],
        speaker=speaker,
        # What the columns say goes before what is derived.
        fields=({"speaker": speaker} if speaker else {}) | ({"split": split} if split in SPLITS else {}) | fields,
    )


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """The first of these columns that has a value, as text; empty if none has."""
    return next((str(row[name]) for name in names if row.get(name) not in (None, "")), "")


def _content(file: Path, where: str, audio: Mapping[str, Any]) -> bytes:
    content, path = audio.get("bytes"), audio.get("path")
    if isinstance(content, bytes):
        return content
    if not isinstance(path, str) or not path:
        raise DataError(f"{where}: {AUDIO!r} has neither bytes nor a path")
    try:
        return (file.parent / path).read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"{where}: {AUDIO!r} has no bytes and its path cannot be read: {error}") from error
