import hashlib
from pathlib import Path

import pyarrow as pa
import pytest

from jasper_ray.data.shards import SCHEMA, ShardReader, ShardRow, put_shard
from jasper_ray.errors import DataError


def shard_of(dataset: Path, *audio: bytes) -> Path:
    rows = [ShardRow(f"u{n}", content, f"u{n}.flac", f"text {n}") for n, content in enumerate(audio)]
    put_shard(str(dataset), 0, rows)
    return dataset / "shards" / "00000.arrow"


def test_rows_come_back_in_any_order_without_a_copy(tmp_path: Path) -> None:
    reader = ShardReader(shard_of(tmp_path, *(bytes([n]) * (n + 1) for n in range(5))))
    assert len(reader) == 5
    for row in (4, 0, 2):
        assert bytes(reader.audio(row)) == bytes([row]) * (row + 1)
        assert (reader.id(row), reader.text(row)) == (f"u{row}", f"text {row}")
    assert isinstance(reader.audio(1), memoryview) and reader.audio(1).readonly


def test_opening_a_shard_and_taking_rows_allocates_nothing(tmp_path: Path) -> None:
    path = shard_of(tmp_path, *(bytes([n]) * 500_000 for n in range(8)))
    before = pa.total_allocated_bytes()
    reader = ShardReader(path)
    views = [reader.audio(row) for row in range(8)]
    assert pa.total_allocated_bytes() - before < 10_000 and len(views[7]) == 500_000


def test_views_outlive_their_reader_and_the_name_of_the_file(tmp_path: Path) -> None:
    path = shard_of(tmp_path, b"audio")
    view = ShardReader(path).audio(0)
    path.unlink()  # as the shard cache does when it is full
    assert bytes(view) == b"audio"


def test_a_file_of_several_record_batches_is_refused(tmp_path: Path) -> None:
    batch = pa.RecordBatch.from_pylist([{"id": "u", "audio": {"bytes": b"x", "path": ""}, "text": ""}], schema=SCHEMA)
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        writer.write_batch(batch)
        writer.write_batch(batch)
    with pytest.raises(DataError, match=r"a\.arrow cannot be read as a shard: it has 2 record batches"):
        ShardReader(tmp_path / "a.arrow")


def test_the_same_rows_give_the_same_file_and_its_checksum(tmp_path: Path) -> None:
    rows = [ShardRow("u", b"audio", "u.flac", "t")]
    sums = [put_shard(str(tmp_path / name), 7, rows) for name in ("a", "b")]
    files = [(tmp_path / name / "shards" / "00007.arrow").read_bytes() for name in ("a", "b")]
    assert sums[0] == sums[1] == hashlib.sha256(files[0]).hexdigest() and files[0] == files[1]


def test_the_audio_column_is_laid_out_as_hugging_face_datasets_do(tmp_path: Path) -> None:
    schema = pa.ipc.open_file(pa.memory_map(str(shard_of(tmp_path, b"x")))).schema
    assert schema.field("audio").type == pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])


@pytest.mark.parametrize("content", [b"", b"ARROW1 no", None])
def test_a_file_that_is_no_whole_shard_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = shard_of(tmp_path, b"x" * 1000)
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(DataError, match=r"00000\.arrow cannot be read as a shard"):
        ShardReader(path)


def test_a_row_beyond_the_shard_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 1 rows, row 1 was asked for"):
        ShardReader(shard_of(tmp_path, b"x")).audio(1)
