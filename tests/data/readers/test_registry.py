import json
from pathlib import Path

import pytest

from jasper_ray.config.schema import CorpusConfig
from jasper_ray.data.readers.registry import detect_format, read_corpus
from jasper_ray.errors import DataError


def write_lines(folder: Path, *rows: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "a.wav").write_bytes(b"audio")
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    (folder / "manifest.jsonl").write_text(text)
    return folder


def read(source: Path | str, fmt: str = "auto", **where: str | tuple[str, ...]) -> list:
    return list(read_corpus(CorpusConfig(source=str(source), format=fmt, where=where)))


def test_json_lines_give_audio_text_speaker_and_fields(tmp_path: Path) -> None:
    row = {"audio": "a.wav", "text": "Hi", "speaker": "s", "split": "train", "age": 7}
    (utterance,) = read(write_lines(tmp_path, row))
    assert (utterance.id, utterance.audio, utterance.text, utterance.speaker) == ("a", b"audio", "Hi", "s")
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


def test_where_selects_by_one_value_or_several(tmp_path: Path) -> None:
    rows = [{"audio": "a.wav", "text": "x", "id": str(n), "split": split} for n, split in enumerate("abc")]
    source = write_lines(tmp_path, *rows)
    assert [u.id for u in read(source, split="b")] == ["1"]
    assert [u.id for u in read(source, split=("a", "c"))] == ["0", "2"]


def test_where_with_an_unknown_field_names_those_there_are(tmp_path: Path) -> None:
    source = write_lines(tmp_path, {"audio": "a.wav", "text": "x", "split": "a"})
    with pytest.raises(DataError, match=r"names 'splt', which utterance 'a' does not have\. It has: split"):
        read(source, splt="a")


def test_a_folder_of_no_known_format_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"its format cannot be told.*--format \(librispeech, jsonl\)"):
        detect_format(tmp_path)
    with pytest.raises(DataError, match="there is no such corpus"):
        read(tmp_path / "nowhere")


def librispeech(folder: Path, lines: str = "1-2-0000 HELLO\n1-2-0001 WORLD\n") -> Path:
    chapter = folder / "dev-clean" / "1" / "2"
    chapter.mkdir(parents=True)
    (chapter / "1-2.trans.txt").write_text(lines)
    for number in (0, 1):
        (chapter / f"1-2-000{number}.flac").write_bytes(bytes([number]))
    return folder


def test_librispeech_is_found_and_read_from_any_depth(tmp_path: Path) -> None:
    root = librispeech(tmp_path / "LibriSpeech")
    for source in (root, root / "dev-clean", root / "dev-clean" / "1" / "2"):
        first, second = read(source)
        assert (first.id, first.text, first.audio, first.speaker) == ("1-2-0000", "HELLO", b"\0", "1")
        assert second.fields == {"subset": "dev-clean", "speaker": "1", "chapter": "2"}


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("1-2-0000\n1-2-0001 X\n", r"1-2\.trans\.txt, line 1: must be an id, a space and a transcript"),
        ("1-2-0000 X\n", r"has no line for .*1-2-0001\.flac"),
        ("1-2-0000 X\n1-2-0001 Y\n1-2-0002 Z\n", r"1-2-0002 has no audio"),
    ],
)
def test_librispeech_whose_files_do_not_match_is_named(tmp_path: Path, lines: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read(librispeech(tmp_path, lines), "librispeech")


def test_both_readers_give_the_same_real_speech(speech_data: Path) -> None:
    by_layout = {u.id: u for u in read(speech_data / "librispeech", "librispeech")}
    by_lines = {u.id: u for u in read(speech_data / "librispeech", "jsonl")}
    assert len(by_layout) == 260 and by_layout.keys() == by_lines.keys()
    for name, utterance in by_layout.items():
        other = by_lines[name]
        assert (utterance.text.lower(), utterance.audio) == (other.text, other.audio)
        assert (utterance.speaker, utterance.fields["subset"]) == (other.speaker, other.fields["subset"])
