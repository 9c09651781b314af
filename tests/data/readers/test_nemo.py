import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from jasper_ray.data.readers.nemo import is_nemo, read_nemo
from jasper_ray.errors import DataError

RATE_HZ = 16_000


def noise(seed: int, *, seconds: float = 0.5, container: str = "WAV") -> bytes:
    file = io.BytesIO()
    waveform = np.random.default_rng(seed).uniform(-0.1, 0.1, round(seconds * RATE_HZ))
    soundfile.write(file, waveform, RATE_HZ, format=container)
    return file.getvalue()


def samples(content: bytes) -> list[int]:
    return list(soundfile.read(io.BytesIO(content), dtype="int16")[0])


def write_manifest(folder: Path, *rows: Any, name: str = "train.json") -> Path:
    (folder / "wav").mkdir(parents=True, exist_ok=True)
    (folder / "wav/a.wav").write_bytes(noise(0))
    (folder / "wav/b.flac").write_bytes(noise(1, container="FLAC"))
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    (folder / name).write_text(text)
    return folder / name


def write_tar(path: Path, **members: bytes) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name.replace("__", "."))
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def row(audio: str, text: str = "hi", **values: Any) -> dict[str, Any]:
    return {"audio_filepath": audio, "duration": 0.5, "text": text, **values}


def test_whole_files_are_taken_as_they_are(tmp_path: Path) -> None:
    rows = row("wav/a.wav", speaker="s", lang="en"), row(str(tmp_path / "wav/b.flac"), "you", offset=None)
    one, two = read_nemo(write_manifest(tmp_path, *rows))
    assert (one.id, one.text, one.speaker, one.audio.read(), one.path) == ("a", "hi", "s", noise(0), "wav/a.wav")
    assert one.fields == {"duration": "0.5", "speaker": "s", "lang": "en"}
    assert (two.id, two.text, two.speaker, two.audio.read()) == ("b", "you", "", noise(1, container="FLAC"))


@pytest.mark.parametrize("key", ["id", "utt_id"])
def test_an_id_wins_over_the_files_name(tmp_path: Path, key: str) -> None:
    rows = [row("wav/a.wav", **{key: 7}), row("wav/a.wav", offset=0.1, duration=0.1, **{key: "x"})]
    assert [u.id for u in read_nemo(write_manifest(tmp_path, *rows))] == ["7", "x"]


def test_a_piece_has_the_samples_of_the_recording(tmp_path: Path) -> None:
    rows = [row("wav/a.wav", offset=0, duration=0.125), row("wav/a.wav", offset=0.25, duration=0.125)]
    manifest = write_manifest(tmp_path, *rows, row("wav/b.flac"))
    one, two, _ = read_nemo(manifest)
    assert [one.id, two.id] == ["a-0", "a-250"]
    assert samples(one.audio.read()) == samples(noise(0))[:2000]
    assert samples(two.audio.read()) == samples(noise(0))[4000:6000]


def test_tars_give_their_members_in_their_order_and_pieces_of_them(tmp_path: Path) -> None:
    manifest = write_manifest(
        tmp_path,
        row("late.wav", "late", shard_id=1),
        row("x_a.wav", "first", shard_id=0, offset=0.0, duration=0.25),
        row("x-sub9.wav", "whole, of that name", shard_id=0),
        row("x_a-sub1.wav", "second", shard_id=0, offset=0.25, duration=0.125),
        row("y.wav", "transcoded", shard_id=0),
        name="tarred_audio_manifest.json",
    )
    members = {
        "y__flac": noise(5, container="FLAC"),
        "unlisted__wav": b"",
        "x_a__wav": noise(3),
        "x-sub9__wav": noise(4),
    }
    write_tar(tmp_path / "audio_0.tar", **members)
    write_tar(tmp_path / "audio_1.tar", late__wav=noise(6))
    utterances = list(read_nemo(tmp_path))
    assert [(u.id, u.text) for u in utterances] == [
        ("y", "transcoded"),
        ("x_a-0", "first"),
        ("x_a-250", "second"),
        ("x-sub9", "whole, of that name"),
        ("late", "late"),
    ]
    assert utterances[0].audio.read() == noise(5, container="FLAC")
    assert [samples(u.audio.read()) for u in utterances[1:3]] == [
        samples(noise(3))[:4000],
        samples(noise(3))[4000:6000],
    ]
    assert [u.audio.read() for u in utterances[3:]] == [noise(4), noise(6)]
    assert [u.id for u in read_nemo(manifest)] == [u.id for u in utterances]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (row("no.wav", shard_id=0), r"line 2: no\.wav is not in .*audio_0\.tar"),
        (row("a-sub1.wav", shard_id=7), r"line 2: .*audio_7\.tar cannot be read: .*No such file"),
        (row("a.wav", shard_id=5), r"line 2: .*audio_5\.tar cannot be read: "),
        (row("a.wav"), r"line 2: 'shard_id' must be a whole number as in the first line, got None"),
        (row("a.wav", shard_id="0"), r"line 2: 'shard_id' must be a whole number .*got '0'"),
        (row("a-sub1.wav", shard_id=0, offset=0.4, duration=0.2), r"line 2: the piece from 0\.4 s to 0\.6 s does not"),
    ],
)
def test_a_row_that_its_tar_does_not_have_names_file_line_and_reason(tmp_path: Path, line: Any, reason: str) -> None:
    write_tar(tmp_path / "audio_0.tar", a__wav=noise(0))
    (tmp_path / "audio_5.tar").write_bytes(b"not a tar" * 1000)
    with pytest.raises(DataError, match=r"train\.json, " + reason):
        [u.audio.read() for u in read_nemo(write_manifest(tmp_path, row("a.wav", shard_id=0), line))]


def test_a_truncated_tar_is_an_error(tmp_path: Path) -> None:
    write_tar(tmp_path / "audio_0.tar", a__wav=noise(0))
    (tmp_path / "audio_0.tar").write_bytes((tmp_path / "audio_0.tar").read_bytes()[:5000])
    with pytest.raises(DataError, match=r"train\.json, line 1: .*audio_0\.tar cannot be read: unexpected end of data"):
        list(read_nemo(write_manifest(tmp_path, row("a.wav", shard_id=0))))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{nonsense", "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
        ("[1]", "line 2: must be an object with audio_filepath and text, got list"),
        ({"text": "a"}, r"line 2: 'audio_filepath' must be a text, got None \(keys: text\)"),
        ({"audio_filepath": "wav/a.wav"}, "line 2: 'text' must be a text, got None"),
        (row("no.wav"), r"line 2: audio .*no\.wav cannot be read: No such file"),
        (row("wav/a.wav", offset="1"), "line 2: 'offset' must be a number of seconds from 0 to 1e.09, got '1'"),
        (row("wav/a.wav", offset=-1), "line 2: 'offset' must be a number of .*, got -1"),
        (row("wav/a.wav", offset=10**400), "line 2: 'offset' must be a number of .*, got 1000"),
        (row("wav/a.wav", offset=0, duration=None), "line 2: 'duration' must be a number .*got None"),
        (row("wav/a.wav", offset=0, duration=float("nan")), "line 2: 'duration' must be a number .*got nan"),
        (row("wav/a.wav", offset=0.4, duration=0.2), r"line 2: the piece from 0\.4 s to 0\.6 s does not lie in"),
    ],
)
def test_a_malformed_line_names_file_line_and_reason(tmp_path: Path, line: Any, reason: str) -> None:
    with pytest.raises(DataError, match=r"train\.json, " + reason):
        [u.audio.read() for u in read_nemo(write_manifest(tmp_path, row("wav/a.wav"), line))]


def test_a_line_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    file = write_manifest(tmp_path)
    file.write_bytes(b'\n{"audio_filepath": "wav/a.wav", "text": "caf\xe9"}\n')
    with pytest.raises(DataError, match=r"train\.json, line 2: not JSON: .*utf-8"):
        list(read_nemo(file))


def test_a_folder_with_several_manifests_is_an_error_that_names_them(tmp_path: Path) -> None:
    for name in ("train.json", "dev.jsonl"):
        write_manifest(tmp_path, row("wav/a.wav"), name=name)
    assert is_nemo(tmp_path)
    with pytest.raises(DataError, match=r"holds 2 \(dev\.jsonl, train\.json\)\. Give the file"):
        next(read_nemo(tmp_path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\ufeff\n" + json.dumps(row("a.wav")), True),
        ('{"audio": "a.wav", "text": "x"}\n', False),
        ('{"audio": "a.wav", "text": "x", "audio_filepath": "a.wav"}\n', False),
        ('[{"transcript": "x", "files": [{"fname": "a.wav", "speed": 1}]}]', False),
        ("client_id\tpath\tsentence\n", False),
        ("[" * 50_000, False),
        ("", False),
    ],
)
def test_the_format_is_told_by_content(tmp_path: Path, text: str, expected: bool) -> None:
    (tmp_path / "m.json").write_text(text)
    assert is_nemo(tmp_path / "m.json") is is_nemo(tmp_path) is expected


def test_what_is_not_there_is_of_no_format(tmp_path: Path) -> None:
    assert not is_nemo(tmp_path / "no.json")
