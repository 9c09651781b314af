import json
from pathlib import Path

import pytest

from jasper_ray.data.readers.corpus import CorpusUtterance
from jasper_ray.data.readers.jsonl import read_jsonl
from jasper_ray.errors import DataError


def write_lines(folder: Path, *rows: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "a.wav").write_bytes(b"audio")
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    (folder / "manifest.jsonl").write_text(text)
    return folder


def read(source: Path) -> list[CorpusUtterance]:
    return list(read_jsonl(source))


def test_json_lines_give_audio_text_speaker_and_fields(tmp_path: Path) -> None:
    row = {"audio": "a.wav", "text": "Hi", "speaker": "s", "split": "train", "age": 7}
    (utterance,) = read(write_lines(tmp_path, row))
    assert (utterance.id, utterance.audio.read(), utterance.text, utterance.speaker) == ("a", b"audio", "Hi", "s")
    assert utterance.fields == {"speaker": "s", "split": "train", "age": "7"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{nonsense", r"line 2: not JSON"),
        ("[1]", r"line 2: must be an object with audio and text, got list"),
        ({"audio": "a.wav"}, r"line 2: 'text' must be a text, got None"),
        ({"audio": "b.wav", "text": "x"}, r"line 2: audio .*b\.wav cannot be read: No such file"),
    ],
)
def test_a_malformed_line_names_file_line_and_reason(tmp_path: Path, line: object, reason: str) -> None:
    with pytest.raises(DataError, match=r"manifest\.jsonl, " + reason):
        read(write_lines(tmp_path, {"audio": "a.wav", "text": "x"}, line))


def test_a_file_of_any_name_is_read_relative_to_its_folder(tmp_path: Path) -> None:
    (write_lines(tmp_path, {"audio": "a.wav", "text": "x"}) / "manifest.jsonl").rename(tmp_path / "dev.jsonl")
    assert [(u.id, u.audio.read()) for u in read(tmp_path / "dev.jsonl")] == [("a", b"audio")]


def test_a_line_separator_inside_a_text_does_not_end_the_line(tmp_path: Path) -> None:
    write_lines(tmp_path, json.dumps({"audio": "a.wav", "text": "one\u2028two\x85three"}, ensure_ascii=False))
    assert [u.text for u in read(tmp_path)] == ["one\u2028two\x85three"]


def test_a_byte_order_mark_blank_lines_and_null_values_are_taken_as_nothing(tmp_path: Path) -> None:
    row = {"audio": "a.wav", "text": "x", "id": None, "speaker": None, "age": None}
    write_lines(tmp_path, "\ufeff" + json.dumps(row), "", "  ")
    (utterance,) = read(tmp_path)
    assert (utterance.id, utterance.speaker, utterance.fields) == ("a", "", {})


def test_a_file_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    write_lines(tmp_path)
    (tmp_path / "manifest.jsonl").write_bytes(b'{"audio": "a.wav", "text": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"manifest\.jsonl: cannot be read: .*utf-8"):
        read(tmp_path)
