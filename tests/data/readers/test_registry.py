import json
from pathlib import Path
from typing import get_args

import pytest

from jasper_ray.config.data import CorpusConfig
from jasper_ray.data.readers.registry import FORMATS, detect_format, read_corpus
from jasper_ray.errors import DataError


def write_lines(folder: Path, *rows: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "a.wav").write_bytes(b"audio")
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    (folder / "manifest.jsonl").write_text(text)
    return folder


def read(source: Path | str, fmt: str = "auto", **where: str | tuple[str, ...]) -> list:
    return list(read_corpus(CorpusConfig(source=str(source), format=fmt, where=where)))


def test_where_selects_by_one_value_or_several(tmp_path: Path) -> None:
    rows = [{"audio": "a.wav", "text": "x", "id": str(n), "split": split} for n, split in enumerate("abc")]
    source = write_lines(tmp_path, *rows)
    assert [u.id for u in read(source, split="b")] == ["1"]
    assert [u.id for u in read(source, split=("a", "c"))] == ["0", "2"]


def test_where_with_an_unknown_field_names_those_there_are(tmp_path: Path) -> None:
    source = write_lines(tmp_path, {"audio": "a.wav", "text": "x", "split": "a"})
    with pytest.raises(DataError, match=r"names 'splt', which none of the 1 utterances has\. They have: split"):
        read(source, splt="a")


def test_a_field_that_an_utterance_lacks_is_empty_if_others_have_it(tmp_path: Path) -> None:
    rows = [{"audio": "a.wav", "text": "x", "id": "0"}, {"audio": "a.wav", "text": "x", "id": "1", "age": "teens"}]
    source = write_lines(tmp_path, *rows)
    assert [u.id for u in read(source, age="teens")] == ["1"]
    assert [u.id for u in read(source, age=("", "teens"))] == ["0", "1"]


def test_a_folder_of_no_known_format_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"its format cannot be told.*--format \(jsonl, librispeech"):
        detect_format(tmp_path)
    with pytest.raises(DataError, match="there is no such corpus"):
        read(tmp_path / "nowhere")


def test_both_readers_give_the_same_real_speech(speech_data: Path) -> None:
    by_layout = {u.id: u for u in read(speech_data / "librispeech", "librispeech")}
    by_lines = {u.id: u for u in read(speech_data / "librispeech", "jsonl")}
    assert len(by_layout) == 260 and by_layout.keys() == by_lines.keys()
    for name, utterance in by_layout.items():
        other = by_lines[name]
        assert (utterance.text.lower(), utterance.audio.read()) == (other.text, other.audio.read())
        assert (utterance.speaker, utterance.fields["subset"]) == (other.speaker, other.fields["subset"])


def test_every_format_can_be_named_in_a_config() -> None:
    named = get_args(CorpusConfig.model_fields["format"].annotation)
    assert set(named) == {"auto", "synthetic", *FORMATS}


def test_every_format_has_a_section_in_the_docs() -> None:
    page = (Path(__file__).parents[3] / "docs" / "corpus-formats.md").read_text()
    sections = [line.removeprefix("## ") for line in page.splitlines() if line.startswith("## ")]
    assert set(sections) == {"synthetic", *FORMATS}


def test_foreign_json_lines_are_told_apart_by_their_keys(tmp_path: Path) -> None:
    write_lines(tmp_path / "own", {"audio": "a.wav", "text": "x"})
    write_lines(tmp_path / "nemo", {"audio_filepath": "a.wav", "duration": 1.0, "text": "x"})
    assert detect_format(tmp_path / "own") == detect_format(tmp_path / "own" / "manifest.jsonl") == "jsonl"
    assert detect_format(tmp_path / "nemo") == detect_format(tmp_path / "nemo" / "manifest.jsonl") == "nemo"
