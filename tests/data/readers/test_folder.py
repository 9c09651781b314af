from pathlib import Path

import pytest

from jasper_ray.data.readers.folder import read_folder
from jasper_ray.data.readers.registry import detect_format
from jasper_ray.errors import DataError


def test_every_audio_file_below_a_folder_is_read_in_the_order_of_paths(tmp_path: Path) -> None:
    for name in ("b/2.WAV", "b/1.flac", "a.mp3", "b/.hidden.wav", ".git/x.wav", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    recordings = list(read_folder(tmp_path))
    assert [one.id for one in recordings] == ["a.mp3", "b/1.flac", "b/2.WAV"]
    assert [one.audio.read().decode() for one in recordings] == [one.path for one in recordings]
    assert {one.text for one in recordings} == {""}


def test_a_folder_of_audio_is_not_taken_for_a_corpus_by_itself(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"x")
    with pytest.raises(DataError, match=r"cannot be told.*folder"):
        detect_format(tmp_path)


def test_a_folder_without_audio_and_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="has no audio file"):
        list(read_folder(tmp_path))
    with pytest.raises(DataError, match="must be a folder"):
        list(read_folder(tmp_path / "notes.txt"))
