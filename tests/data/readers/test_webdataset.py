import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from jasper_ray.data.readers.corpus import CorpusUtterance
from jasper_ray.data.readers.webdataset import is_webdataset, read_webdataset
from jasper_ray.errors import DataError


def flac(seed: int) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(seed).standard_normal(800) * 0.1
    soundfile.write(buffer, noise, 8000, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def write_tar(file: Path, *members: tuple[str, bytes]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w:gz" if file.suffix == ".gz" else "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file


def read(source: Path) -> list[CorpusUtterance]:
    return list(read_webdataset(source))


def test_tars_in_a_folder_give_keys_texts_speakers_and_the_bytes_themselves(tmp_path: Path) -> None:
    row = {"text": "one", "speaker": "s1", "age": 7, "tags": ["x"], "note": None}
    write_tar(tmp_path / "b.tar.gz", ("d/3.FLAC", flac(3)), ("d/3.transcript", b"three"), ("e/3.text", b"\xc3\xa9"),
              ("e/3.flac", flac(4)))  # fmt: skip
    write_tar(tmp_path / "a.tar", ("./1.flac", flac(1)), ("./1.json", json.dumps(row).encode()), ("./1.cls", b"0"),
              ("./._2.flac", b"x"), ("./2.txt", b" two\n"), ("./2.flac", flac(2)))  # fmt: skip
    utterances = read(tmp_path)
    assert [(u.id, u.text, u.speaker, u.audio.read()) for u in utterances] == [
        ("1", "one", "s1", flac(1)),
        ("2", "two", "", flac(2)),
        ("d/3", "three", "", flac(3)),
        ("e/3", "é", "", flac(4)),
    ]
    assert [u.fields for u in utterances] == [{"speaker": "s1", "age": "7"}, {}, {}, {}]


def test_the_transcript_may_be_under_either_key_and_a_text_member_goes_first(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", ("1.wav", b"a"), ("1.json", b'{"transcript": "one"}'), ("2.wav", b"b"),
                    ("2.json", b'{"text": "raw", "lang": "en"}'), ("2.txt", b"two"))  # fmt: skip
    assert [(u.text, u.fields) for u in read(tar)] == [("one", {}), ("two", {"lang": "en"})]


GOOD = (("1.flac", b"audio"), ("1.txt", b"one"))


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("2.txt", b"x")], r"must have one member of audio .*, has 0 among the adjacent members 2\.txt"),
        ([("2.flac", b"a"), ("2.wav", b"a"), ("2.txt", b"x")], r"must have one member of audio .*, has 2"),
        ([("2.flac", b"a")], r"has no text: no member \.txt"),
        ([("2.flac", b"a"), ("2.json", b'{"text": 5}')], r"has no text"),
        ([("2.flac", b"a"), ("2.json", b"{")], r"\.json is not JSON"),
        ([("2.flac", b"a"), ("2.json", b"[1]")], r"\.json must be an object, got list"),
        ([("2.flac", b"a"), ("2.txt", b"caf\xe9")], r"\.txt is not UTF-8"),
        ([("2.flac", b"a"), ("2.flac", b"a")], r"has two members \.flac: 2\.flac and 2\.flac"),
    ],
)
def test_a_bad_sample_names_tar_key_and_reason(tmp_path: Path, members: list[tuple[str, bytes]], reason: str) -> None:
    with pytest.raises(DataError, match=r"a\.tar, key 2: " + reason):
        read(write_tar(tmp_path / "a.tar", *GOOD, *members))


# Blocks of 512 bytes: two headers, each with one block of content, then the mark of the end.
@pytest.mark.parametrize("num_bytes", [0, 100, 512, 600, 1024, 1300, 1536, 1600, 2048])
def test_a_tar_cut_short_anywhere_is_named(tmp_path: Path, num_bytes: int) -> None:
    tar = write_tar(tmp_path / "a.tar", *((name, content * 60) for name, content in GOOD))
    content = tar.read_bytes()[:num_bytes]
    tar.write_bytes(content)
    packed = tmp_path / "b.tar.gz"
    packed.write_bytes(gzip.compress(content))
    for file in (tar, packed):
        with pytest.raises(DataError, match=rf"{file.name}: cannot be read as a tar"):
            read(file)


def test_a_damaged_header_and_a_gzip_cut_short_are_named(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", *GOOD)
    content = bytearray(tar.read_bytes())
    packed = tmp_path / "b.tar.gz"
    packed.write_bytes(gzip.compress(bytes(content))[:-60])
    content[1024] ^= 1
    tar.write_bytes(content)
    for file in (tar, packed, tmp_path / "gone.tar"):
        with pytest.raises(DataError, match=rf"{file.name}: cannot be read as a tar"):
            read(file)


def test_a_folder_without_tars_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \.tar or \.tar\.gz in it"):
        read(tmp_path)


def test_tars_of_samples_are_told_from_others(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "corpus" / "a.tar.gz", *GOOD)
    assert is_webdataset(tar) and is_webdataset(tar.parent)
    librispeech = write_tar(tmp_path / "l.tar", ("L/1/2/1-2-0.flac", b"a"), ("L/1/2/1-2.trans.txt", b"1-2-0 X"))
    own = tmp_path / "own" / "manifest.jsonl"
    own.parent.mkdir()
    own.write_text('{"audio": "a.wav", "text": "x"}\n')
    others = (librispeech, write_tar(tmp_path / "empty.tar"), own, own.parent, tmp_path / "gone")
    assert not any(map(is_webdataset, others))
