from pathlib import Path

import pytest

from jasper_ray.data.readers.corpus import CorpusUtterance
from jasper_ray.data.readers.librispeech import read_librispeech
from jasper_ray.errors import DataError


def read(source: Path) -> list[CorpusUtterance]:
    return list(read_librispeech(source))


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
        assert (first.id, first.text, first.audio.read(), first.speaker) == ("1-2-0000", "HELLO", b"\0", "1")
        assert second.fields == {"subset": "dev-clean", "speaker": "1", "chapter": "2"}


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("1-2-0000\n1-2-0001 X\n", r"1-2\.trans\.txt, line 1: must be an id, a space and a transcript"),
        ("1-2-0000 X\n", r"has no line for .*1-2-0001\.flac"),
        (
            "1-2-0000 X\n1-2-0001 Y\n1-2-0002 Z\n",
            r"1-2\.trans\.txt, line 3: 1-2-0002: audio .*1-2-0002\.flac cannot be read: No such",
        ),
        ("1-2-0000 X\n1-2-0001 Y\n1-2-0000 Z\n", r"1-2\.trans\.txt, line 3: 1-2-0000 comes twice"),
    ],
)
def test_librispeech_whose_files_do_not_match_is_named(tmp_path: Path, lines: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read(librispeech(tmp_path, lines))


def test_librispeech_is_read_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(librispeech(tmp_path) / "dev-clean" / "1" / "2")
    assert [u.fields["subset"] for u in read(Path())] == ["dev-clean", "dev-clean"]


def test_blank_lines_in_librispeech_transcripts_are_skipped(tmp_path: Path) -> None:
    assert len(read(librispeech(tmp_path, "1-2-0000 X\n\n1-2-0001 Y\n\n"))) == 2


def test_librispeech_transcripts_that_are_not_utf_8_are_named(tmp_path: Path) -> None:
    transcripts = librispeech(tmp_path) / "dev-clean" / "1" / "2" / "1-2.trans.txt"
    transcripts.write_bytes(b"1-2-0000 CAF\xc9\n")
    with pytest.raises(DataError, match=r"1-2\.trans\.txt: cannot be read: .*utf-8"):
        read(tmp_path)
