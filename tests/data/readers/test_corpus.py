import io
import os
import pickle
from pathlib import Path

import pytest

from jasper_ray.data.readers.corpus import AudioBytes, AudioPart, audio_file
from jasper_ray.errors import DataError


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no.wav", "cannot be read: No such file"),
        ("a\0b", "cannot be read: .*null byte"),
        ("", "is not a file"),
        ("pipe", "is not a file"),
    ],
)
def test_audio_that_is_not_there_is_an_error_with_the_place_at_listing(tmp_path: Path, name: str, reason: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match=rf"m\.json, line 3: audio .* {reason}"):
        audio_file(tmp_path / name, where="m.json, line 3")


def test_audio_that_has_gone_since_is_an_error_with_the_place(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    file, part = audio_file(tmp_path / "a", where="line 3"), AudioPart(tmp_path / "a", 8, 4, "line 4")
    with pytest.raises(DataError, match=r"line 4: .* ends 2 bytes too early: it has changed"):
        part.read()
    (tmp_path / "a").unlink()
    for reference, line in ((file, 3), (part, 4)):
        with pytest.raises(DataError, match=rf"line {line}: audio .*a cannot be read: No such file"):
            reference.read()


def test_references_know_their_size_travel_and_give_the_same_bytes_whole_and_as_streams(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    part = AudioPart(tmp_path / "a", 3, 4, "here")
    for reference, content in (
        (AudioBytes(b"abc"), b"abc"),
        (audio_file(tmp_path / "a", where="here"), b"0123456789"),
        (part, b"3456"),
    ):
        other = pickle.loads(pickle.dumps(reference))
        assert (other, other.num_bytes, other.read()) == (reference, len(content), content)
        with other.open() as stream:
            assert stream.read() == content
    with part.open() as stream:
        assert (stream.seek(-2, io.SEEK_END), stream.read(9), stream.read(1), stream.seek(1)) == (2, b"56", b"", 1)
        assert (stream.read(2), stream.tell()) == (b"45", 3)
