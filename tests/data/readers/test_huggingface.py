import io
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from jasper_ray.data.readers import huggingface
from jasper_ray.data.readers.corpus import CorpusUtterance
from jasper_ray.data.readers.huggingface import is_huggingface, read_huggingface
from jasper_ray.errors import DataError


def flac(seed: int) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).standard_normal(800) * 0.1
    soundfile.write(buffer, noise, 8000, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def audio(seed: int, path: str | None) -> dict[str, Any]:
    return {"bytes": flac(seed), "path": path}


def write_rows(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), file, row_group_size=2)
    return file


def read(source: Path) -> list[CorpusUtterance]:
    return list(read_huggingface(source))


def test_files_below_a_folder_give_ids_texts_speakers_and_the_bytes_themselves(tmp_path: Path) -> None:
    write_rows(tmp_path / "data" / "train-00001-of-00002.parquet", [{"audio": audio(2, "b.flac"), "text": "two"}])
    row = {"audio": audio(1, "x.flac"), "text": "one", "id": "u1", "speaker_id": 0, "chapter_id": 7, "tags": ["a"]}
    write_rows(tmp_path / "data" / "train-00000-of-00002.parquet", [row])
    first, second = read(tmp_path)
    assert (first.id, first.text, first.speaker, first.audio.read()) == ("u1", "one", "0", flac(1))
    assert first.fields == {"split": "train", "speaker": "0", "speaker_id": "0", "chapter_id": "7"}
    assert (second.id, second.text, second.speaker, second.audio.read()) == ("b", "two", "", flac(2))
    assert second.fields == {"split": "train"}


@pytest.mark.parametrize("batch_rows", [2, 16])
def test_rows_without_id_and_path_are_numbered_across_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_rows: int
) -> None:
    monkeypatch.setattr(huggingface, "BATCH_ROWS", batch_rows)
    rows = [{"audio": audio(seed, None), "sentence": str(seed), "client_id": "c"} for seed in range(5)]
    file = write_rows(tmp_path / "clips.parquet", rows)
    assert [(u.id, u.text, u.audio.read(), u.speaker) for u in read(file)] == [
        (f"clips-{seed}", str(seed), flac(seed), "c") for seed in range(5)
    ]


@pytest.mark.parametrize("column", ["text", "sentence", "transcription", "transcript", "normalized_text"])
def test_the_text_column_may_have_any_of_the_usual_names(tmp_path: Path, column: str) -> None:
    assert read(write_rows(tmp_path / "a.parquet", [{"audio": audio(1, "a.wav"), column: "Hi"}]))[0].text == "Hi"


def test_the_first_text_column_is_the_text_and_the_others_are_fields(tmp_path: Path) -> None:
    row = {"audio": audio(1, "a.wav"), "normalized_text": "five", "text": "5", "split": "clean", "note": None}
    (utterance,) = read(write_rows(tmp_path / "test-0.parquet", [row]))
    assert (utterance.text, utterance.fields) == ("5", {"normalized_text": "five", "split": "clean"})


def test_audio_without_bytes_is_read_from_its_path(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.parquet", [{"audio": {"bytes": None, "path": "clips/u.flac"}, "text": "x"}])
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "u.flac").write_bytes(flac(3))
    assert [(u.id, u.audio.read()) for u in read(file)] == [("u", flac(3))]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"audio": audio(1, "a"), "text": None}, r"row 1: 'text' must be a text, got None"),
        ({"audio": None, "text": "x"}, r"row 1: 'audio' has neither bytes nor a path"),
        ({"audio": {"bytes": None, "path": None}, "text": "x"}, r"row 1: 'audio' has neither bytes nor a path"),
        (
            {"audio": {"bytes": None, "path": "gone.wav"}, "text": "x"},
            r"row 1: 'audio' has no bytes, .*gone\.wav cannot be read: No",
        ),
    ],
)
def test_a_bad_row_names_file_row_and_reason(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    file = write_rows(tmp_path / "a.parquet", [{"audio": audio(1, "a.wav"), "text": "x"}, row])
    with pytest.raises(DataError, match=r"a\.parquet, " + reason):
        read(file)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"audio": "a.wav", "text": "x"}, r"a\.parquet: has no column 'audio', a struct .*it has: audio, text"),
        ({"audio": audio(1, "a.wav"), "words": "x"}, r"a\.parquet: has no text column"),
    ],
)
def test_a_file_without_audio_or_text_says_what_it_has(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read(write_rows(tmp_path / "a.parquet", [row]))


def test_a_damaged_file_and_a_folder_without_any_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \*\.parquet below it"):
        read(tmp_path)
    file = write_rows(tmp_path / "a.parquet", [{"audio": audio(1, "a.wav"), "text": "x"}])
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read as parquet"):
        read(tmp_path)


def test_hugging_face_files_are_told_from_others(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "corpus" / "a.parquet", [{"audio": audio(1, "a.wav"), "text": "x"}])
    assert is_huggingface(file) and is_huggingface(tmp_path / "corpus")
    own = write_rows(tmp_path / "dataset" / "manifest.parquet", [{"id": "a", "text": "x", "shard": "s"}])
    lines = tmp_path / "lines" / "manifest.jsonl"
    lines.parent.mkdir()
    lines.write_text('{"audio": "a.wav", "text": "x"}\n')
    assert not any(map(is_huggingface, (own, own.parent, lines, lines.parent, tmp_path / "gone")))


def test_listing_reads_no_audio_and_references_give_it_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_rows(tmp_path / "a.parquet", [{"audio": audio(seed, "x"), "text": "x"} for seed in range(7)])
    with monkeypatch.context() as patch:
        patch.setattr(huggingface, "_group_cells", None)
        references = [pickle.loads(pickle.dumps(utterance.audio)) for utterance in read(file)]
    assert [references[seed].read() for seed in (0, 1, 6, 2, 5, 5, 0)] == [flac(seed) for seed in (0, 1, 6, 2, 5, 5, 0)]
    # Cells as small as these stand in the column's statistics as well, which count.
    assert all(1 <= reference.num_bytes / len(flac(0)) < 4 for reference in references)


def test_where_only_some_rows_have_bytes_the_others_are_files(tmp_path: Path) -> None:
    (tmp_path / "u.flac").write_bytes(flac(9))
    cells = [audio(1, "a.flac"), {"bytes": None, "path": "u.flac"}, audio(2, "b.flac"), audio(3, None)]
    file = write_rows(tmp_path / "a.parquet", [{"audio": cell, "text": "x"} for cell in cells])
    assert [(u.id, u.audio.read()) for u in read(file)] == [
        ("a", flac(1)), ("u", flac(9)), ("b", flac(2)), ("a-3", flac(3)),
    ]  # fmt: skip


def test_a_file_that_has_changed_since_is_an_error_with_the_row(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "a.parquet", [{"audio": audio(seed, "x"), "text": "x"} for seed in range(3)])
    *_, last = read(file)
    write_rows(file, [{"audio": audio(0, "x"), "text": "x"}])
    with pytest.raises(DataError, match=r"a\.parquet, row 2: .* cannot be read as parquet"):
        last.audio.read()
