"""Hugging Face parquet files: a row per utterance, the encoded file in an `audio` column of `bytes` and `path`."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jasper_ray.data.readers.corpus import AudioReference, CorpusUtterance, audio_file
from jasper_ray.data.readers.files import in_order
from jasper_ray.data.readers.sequential import Sequential
from jasper_ray.errors import DataError
from jasper_ray.storage.store_path import CorpusPath, placed

PATTERN = "*.parquet"
AUDIO = "audio"
TEXT_COLUMNS = ("text", "sentence", "transcription", "transcript", "normalized_text")
ID_COLUMNS = ("id", "utterance_id")
SPEAKER_COLUMNS = ("speaker_id", "speaker", "client_id")
SPLITS = ("train", "validation", "test", "dev")
BYTES, PATH = f"{AUDIO}.bytes", f"{AUDIO}.path"
# Rows in memory at a time: a row group may hold a thousand recordings.
BATCH_ROWS = 16
# What threads that work on the same row group may lie apart.
KEPT_ROWS = 64


@dataclass(frozen=True)
class AudioCell:
    """The bytes in one row of a parquet file. Rows that are read in their order cost no more than one pass."""

    path: CorpusPath
    row_group: int
    row: int
    """Within the row group."""
    num_bytes: int
    """The row group's mean: the size of one cell is not known before it is read."""
    where: str
    """File and row, for messages."""

    def read(self) -> bytes:
        """The encoded file."""
        try:
            content = _cells(self.path, self.path.stat().st_mtime_ns, self.row_group)[self.row]
        except (OSError, ValueError, IndexError, pa.ArrowException) as error:
            raise DataError(f"{self.where}: {self.path} cannot be read as parquet: {error}") from error
        if content is None:
            raise DataError(f"{self.where}: {BYTES} is empty: {self.path} has changed since it was listed")
        return content


@dataclass(frozen=True)
class _Row:
    """A row without its audio."""

    where: str
    number: int
    """Within the file."""
    values: Mapping[str, Any]
    cell: AudioCell | None


def is_huggingface(source: CorpusPath) -> bool:
    """Whether a file, or the first parquet file below a folder, has a column of audio and one of text."""
    try:
        files = _files(source)
        if not files:
            return False
        with _opened(files[0]) as parquet:
            return not _lacks(parquet.schema_arrow)
    except (OSError, ValueError, pa.ArrowException):
        return False


def read_huggingface(source: CorpusPath) -> Iterator[CorpusUtterance]:
    """Utterances of a parquet file, or of all below a folder; rows count from 0, in ids and in messages.

    Only the other columns are read, unless just some rows of a row group have bytes: that is not known without them.

    Raises:
        DataError: A file is not of this format or damaged, or a row lacks text or audio; names file, row and reason.
    """
    files = _files(source)
    if not files:
        raise DataError(f"{source}: no {PATTERN} below it, so it is not in Hugging Face's layout")
    for file in files:
        for row in _rows(file):
            yield _utterance(file, row)


def _files(source: CorpusPath) -> list[CorpusPath]:
    return in_order(source.rglob(PATTERN)) if source.is_dir() else [source]


def _lacks(schema: pa.Schema) -> str:
    """What a file of this schema lacks to be a corpus; empty if nothing."""
    columns = dict(zip(schema.names, schema.types, strict=True))
    audio = columns.get(AUDIO)
    if audio is None or not pa.types.is_struct(audio) or {"bytes", "path"}.isdisjoint(field.name for field in audio):
        return f"column {AUDIO!r}, a struct of bytes and path"
    if not any(name in columns for name in TEXT_COLUMNS):
        return f"text column ({', '.join(TEXT_COLUMNS)})"
    return ""


def _rows(file: CorpusPath) -> Iterator[_Row]:
    try:
        with _opened(file) as parquet:
            schema = parquet.schema_arrow
            lacks = _lacks(schema)
            if lacks:
                raise DataError(f"{file}: has no {lacks}; it has: {', '.join(schema.names)}")
            columns = [field.name for field in schema if _is_scalar(field.type)] + [PATH]
            first = 0
            for group in range(parquet.num_row_groups):
                mean_bytes, have_bytes = _bytes_of_group(parquet, group)
                batches = parquet.iter_batches(batch_size=BATCH_ROWS, row_groups=[group], columns=columns)
                values = (row for batch in batches for row in batch.to_pylist())
                for row, (has_bytes, row_values) in enumerate(zip(have_bytes, values, strict=True)):
                    where = f"{file}, row {first + row}"
                    cell = AudioCell(file, group, row, mean_bytes, where) if has_bytes else None
                    yield _Row(where, first + row, row_values, cell)
                first += parquet.metadata.row_group(group).num_rows
    except DataError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{file}: cannot be read as parquet: {error}") from error


def _opened(file: CorpusPath) -> pq.ParquetFile:
    return pq.ParquetFile(file if isinstance(file, Path) else file.open("rb"))


def _bytes_of_group(parquet: pq.ParquetFile, group: int) -> tuple[int, Iterable[bool]]:
    """Mean size of the audio in a row group, and whether each row has some."""
    metadata = parquet.metadata.row_group(group)
    num_rows = metadata.num_rows
    columns = (metadata.column(number) for number in range(metadata.num_columns))
    column = next((column for column in columns if column.path_in_schema == BYTES), None)
    if column is None:
        return 0, [False] * num_rows
    statistics = column.statistics
    num_null = statistics.null_count if statistics is not None and statistics.has_null_count else None
    mean_bytes = column.total_uncompressed_size // max(1, num_rows - (num_null or 0))
    if num_null in (0, num_rows):
        return mean_bytes, [num_null == 0] * num_rows
    return mean_bytes, (cell is not None for cell in _group_cells(parquet, group))


def _group_cells(parquet: pq.ParquetFile, group: int) -> Iterator[bytes | None]:
    for batch in parquet.iter_batches(batch_size=BATCH_ROWS, row_groups=[group], columns=[BYTES]):
        for cell in pc.struct_field(batch.column(AUDIO), "bytes"):
            yield cell.as_py()


@lru_cache(maxsize=2)
def _cells(file: CorpusPath, _written_ns: int, group: int) -> Sequential[bytes | None]:
    """The audio in a row group."""

    def cells() -> Iterator[bytes | None]:
        with _opened(file) as parquet:
            yield from _group_cells(parquet, group)

    return Sequential(cells, keep=KEPT_ROWS)


def _is_scalar(kind: pa.DataType) -> bool:
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)
    return not (pa.types.is_nested(kind) or is_bytes)


def _utterance(file: CorpusPath, row: _Row) -> CorpusUtterance:
    values = row.values
    text_column = next((name for name in TEXT_COLUMNS if name in values), TEXT_COLUMNS[0])
    if not isinstance(values.get(text_column), str):
        raise DataError(f"{row.where}: {text_column!r} must be a text, got {values.get(text_column)!r}")
    path = (values.get(AUDIO) or {}).get("path") or ""
    number_id = f"{file.stem}-{row.number}"
    own = (AUDIO, text_column, *ID_COLUMNS)
    fields = {name: str(value) for name, value in values.items() if name not in own and value is not None}
    speaker = _first(values, SPEAKER_COLUMNS)
    split = file.stem.partition("-")[0]
    return CorpusUtterance(
        id=_first(values, ID_COLUMNS) or Path(path).stem or number_id,
        audio=row.cell or _outside(file, row.where, path),
        path=path or number_id,
        text=values[text_column],
        speaker=speaker,
        # What the columns say goes before what is derived.
        fields=({"speaker": speaker} if speaker else {}) | ({"split": split} if split in SPLITS else {}) | fields,
    )


def _first(row: Mapping[str, Any], names: tuple[str, ...]) -> str:
    """The first of these columns that has a value, as text; empty if none has."""
    return next((str(row[name]) for name in names if row.get(name) not in (None, "")), "")


def _outside(file: CorpusPath, where: str, path: str) -> AudioReference:
    if not path:
        raise DataError(f"{where}: {AUDIO!r} has neither bytes nor a path")
    return audio_file(placed(file.parent, path), where=f"{where}: {AUDIO!r} has no bytes, and its path leads nowhere")
