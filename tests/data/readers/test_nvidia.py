import json
from pathlib import Path
from typing import Any

import pytest
from noise import noise

from jasper_ray.data.readers.nvidia import is_nvidia, read_nvidia
from jasper_ray.errors import DataError

SLOW = "wav/103/1240/103-1240-0000-0.9.wav"
PLAIN = "wav/103/1240/103-1240-0000.wav"


def write_corpus(root: Path, entries: Any, manifest: str = "train.json") -> Path:
    for seed, name in enumerate((SLOW, PLAIN, "wav/x.wav")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(noise(seed))
    (root / manifest).parent.mkdir(exist_ok=True)
    (root / manifest).write_text(entries if isinstance(entries, str) else json.dumps(entries, indent=2))
    return root / manifest


def entry(*files: tuple[str, float], text: str = "hi") -> dict[str, Any]:
    return {
        "transcript": text,
        "files": [{"fname": name, "speed": speed, "duration": 0.1, "num_samples": 1600} for name, speed in files],
        "original_duration": 0.1,
        "original_num_samples": 1600,
    }


@pytest.mark.parametrize("manifest", ["train.json", "json/train.json"])
def test_every_speed_of_every_entry_is_an_utterance(tmp_path: Path, manifest: str) -> None:
    entries = [entry((SLOW, 0.9), (PLAIN, 1)), entry(("wav/x.wav", 1), ("wav/x.wav", 1.1), text="you")]
    utterances = list(read_nvidia(write_corpus(tmp_path, entries, manifest)))
    assert [(u.id, u.text, u.speaker, u.audio.read(), u.fields["speed"]) for u in utterances] == [
        ("103-1240-0000-0.9", "hi", "103", noise(0), "0.9"),
        ("103-1240-0000", "hi", "103", noise(1), "1"),
        ("x", "you", "", noise(2), "1"),
        ("x-sp1.1", "you", "", noise(2), "1.1"),
    ]
    assert utterances[0].path == SLOW
    assert "speaker" not in utterances[2].fields


def test_a_folder_with_one_manifest_is_read_and_one_with_several_is_an_error(tmp_path: Path) -> None:
    write_corpus(tmp_path, [entry((PLAIN, 1))])
    (tmp_path / "other.json").write_text('{"a": 1}')
    assert is_nvidia(tmp_path)
    assert [u.id for u in read_nvidia(tmp_path)] == ["103-1240-0000"]
    write_corpus(tmp_path, [entry((PLAIN, 1))], "dev.json")
    with pytest.raises(DataError, match=r"holds 2 \(dev\.json, train\.json\)"):
        next(read_nvidia(tmp_path))


@pytest.mark.parametrize("text", ["[]", " [\n]\n", "\ufeff[]"])
def test_an_empty_array_has_no_utterances(tmp_path: Path, text: str) -> None:
    assert list(read_nvidia(write_corpus(tmp_path, text))) == []


GOOD = json.dumps(entry((PLAIN, 1)))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{}", r"line 1: not a JSON array: must be one of \[ here, got '\{'"),
        (f"[\n{GOOD},\n{{nonsense", "line 3: not JSON: Expecting property name"),
        (f"[{GOOD}\n{GOOD}]", r"line 2: not a JSON array: must be one of ,\] here"),
        (f"[{GOOD},\n{GOOD}\n", r"line 3: not a JSON array: .*got ''"),
        (f"[{GOOD}]\n[]", "line 2: not JSON: there is more after the array"),
        (f"[{GOOD},\n7]", "line 2: must be an object with transcript and files, got int"),
        (f'[{GOOD},\n{{"files": []}}]', r"line 2: 'transcript' must be a text, got None \(keys: files\)"),
        (f'[{GOOD},\n{{"transcript": "a", "files": []}}]', "line 2: 'files' must be a list of at least one"),
        ('[\n{"transcript": "a", "files": [{"speed": 1}]}]', "line 2: each of 'files' must .* 'fname'"),
        (
            f"[{GOOD},\n{json.dumps(entry((PLAIN, 0)))}]",
            "line 2: 'speed' of .*wav must be a number above 0 and up to 10, got 0",
        ),
        (f"[{json.dumps(entry((PLAIN, 10**400)))}]", "line 1: 'speed' of .*wav must be a number above 0 .*got 1000"),
        (
            f"[{json.dumps(entry(('a' * 5000 + '.wav', 1)))}]",
            "line 1: audio .*aaa.wav cannot be read: File name too long",
        ),
        (f"[{GOOD},\n{json.dumps(entry(('no.wav', 1)))}]", r"line 2: audio no\.wav is neither below .* nor below"),
        (f"[{GOOD},\n{json.dumps(entry((PLAIN, 1)) | {'offset': 2})}]", "line 2: 'offset' must be 0 or absent, got 2"),
    ],
)
def test_a_malformed_entry_names_file_line_and_reason(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(DataError, match=r"train\.json, " + reason):
        list(read_nvidia(write_corpus(tmp_path, text)))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.json: cannot be read"):
        next(read_nvidia(tmp_path / "no.json"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"\ufeff [\n {GOOD}]", True),
        ('{"audio": "a.wav", "text": "x"}\n', False),
        ('{"audio_filepath": "a.wav", "text": "x", "duration": 1}\n', False),
        ("wav_filename,wav_filesize,transcript\n", False),
        ('[{"audio": "a.wav", "text": "x"}]', False),
        ("[" * 50_000, False),
        ("", False),
    ],
)
def test_the_format_is_told_by_content(tmp_path: Path, text: str, expected: bool) -> None:
    (tmp_path / "m.json").write_text(text)
    assert is_nvidia(tmp_path / "m.json") is is_nvidia(tmp_path) is expected
