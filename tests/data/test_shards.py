from pathlib import Path

import pyarrow as pa
import pytest

from jasper_ray.data.shards import SCHEMA, ShardReader, ShardWriter
from jasper_ray.errors import DataError


def test_rows_come_back_in_any_order_without_a_copy(tmp_path: Path) -> None:
    writer = ShardWriter(str(tmp_path))
    places = [writer.add(f"u{n}", bytes([n]) * (n + 1), f"u{n}.flac", f"text {n}") for n in range(5)]
    writer.close()
    assert places == [("00000.arrow", n) for n in range(5)]
    reader = ShardReader(tmp_path / "shards" / "00000.arrow")
    assert len(reader) == 5
    for row in (4, 0, 2):
        assert bytes(reader.audio(row)) == bytes([row]) * (row + 1)
        assert (reader.id(row), reader.text(row)) == (f"u{row}", f"text {row}")
    assert isinstance(reader.audio(1), memoryview) and reader.audio(1).readonly


def test_opening_a_shard_and_taking_rows_allocates_nothing(tmp_path: Path) -> None:
    writer = ShardWriter(str(tmp_path))
    for number in range(8):
        writer.add(f"u{number}", bytes([number]) * 500_000, "", "t")
    writer.close()
    before = pa.total_allocated_bytes()
    reader = ShardReader(tmp_path / "shards" / "00000.arrow")
    views = [reader.audio(row) for row in range(8)]
    assert pa.total_allocated_bytes() - before < 10_000 and len(views[7]) == 500_000


def test_views_outlive_their_reader_and_the_name_of_the_file(tmp_path: Path) -> None:
    writer = ShardWriter(str(tmp_path))
    writer.add("u", b"audio", "", "t")
    writer.close()
    path = tmp_path / "shards" / "00000.arrow"
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


def test_a_full_shard_is_closed_and_the_next_one_begun(tmp_path: Path) -> None:
    writer = ShardWriter(str(tmp_path), shard_bytes=10)
    places = [writer.add(f"u{n}", b"123456", "", "") for n in range(5)]
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == ["00000.arrow", "00001.arrow"]
    writer.close()
    assert places == [
        ("00000.arrow", 0),
        ("00000.arrow", 1),
        ("00001.arrow", 0),
        ("00001.arrow", 1),
        ("00002.arrow", 0),
    ]
    assert bytes(ShardReader(tmp_path / "shards" / "00002.arrow").audio(0)) == b"123456"


def test_the_audio_column_is_laid_out_as_hugging_face_datasets_do(tmp_path: Path) -> None:
    writer = ShardWriter(str(tmp_path))
    writer.add("u", b"x", "u.flac", "t")
    writer.close()
    schema = pa.ipc.open_file(pa.memory_map(str(tmp_path / "shards" / "00000.arrow"))).schema
    assert schema.field("audio").type == pa.struct([("bytes", pa.large_binary()), ("path", pa.string())])


@pytest.mark.parametrize("content", [b"", b"ARROW1 no", None])
def test_a_file_that_is_no_whole_shard_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "shards" / "00000.arrow"
    writer = ShardWriter(str(tmp_path))
    writer.add("u", b"x" * 1000, "", "")
    writer.close()
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(DataError, match=r"00000\.arrow cannot be read as a shard"):
        ShardReader(path)


def test_a_row_beyond_the_shard_is_refused(tmp_path: Path) -> None:
    writer = ShardWriter(str(tmp_path))
    writer.add("u", b"x", "", "")
    writer.close()
    with pytest.raises(DataError, match="has 1 rows, row 1 was asked for"):
        ShardReader(tmp_path / "shards" / "00000.arrow").audio(1)
