import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from jasper_ray.data.readers.corpus import CorpusUtterance
from jasper_ray.data.readers.lhotse import is_lhotse, read_lhotse
from jasper_ray.errors import DataError
from jasper_ray.storage import object_store

RATE_HZ = 8000
SAMPLES = (np.random.default_rng(0).standard_normal(RATE_HZ) * 3000).astype(np.int16)


def supervision(name: str, start: object, duration: object, **more: object) -> dict[str, Any]:
    row = {"id": name, "recording_id": "a", "start": start, "duration": duration, "channel": 0, "text": f"say {name}"}
    return row | {"language": "English", "speaker": "s1"} | more


def cut(*supervisions: object, source: object = "audio/a.wav", **more: object) -> dict[str, Any]:
    sources = [{"type": "file", "channels": [0], "source": source}]
    recording = {"id": "a", "sources": sources, "sampling_rate": RATE_HZ, "num_samples": RATE_HZ, "duration": 1.0}
    row = {"id": "cut", "start": 0.0, "duration": 1.0, "channel": 0, "supervisions": list(supervisions)}
    return row | {"recording": recording, "type": "MonoCut"} | more


def write_cuts(folder: Path, *rows: object) -> Path:
    (folder / "audio").mkdir(parents=True)
    soundfile.write(folder / "audio" / "a.wav", SAMPLES, RATE_HZ)
    soundfile.write(folder / "audio" / "stereo.wav", np.stack([SAMPLES, SAMPLES], axis=1), RATE_HZ)
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    (folder / "cuts.jsonl").write_text(text)
    return folder / "cuts.jsonl"


def read(source: Path) -> list[CorpusUtterance]:
    return list(read_lhotse(source))


def samples(utterance: CorpusUtterance) -> np.ndarray:
    return soundfile.read(io.BytesIO(utterance.audio.read()), dtype="int16")[0]


@pytest.mark.parametrize("duration", [1.0, 1.0 + 1 / RATE_HZ, 1.0 - 1 / RATE_HZ])
def test_a_supervision_of_the_whole_recording_gives_the_file_itself(tmp_path: Path, duration: float) -> None:
    file = write_cuts(tmp_path / "c", cut(supervision("u", 0, duration, gender="F", custom={"snr": 9, "x": [1]})))
    (utterance,) = read(file)
    assert (utterance.id, utterance.text, utterance.speaker) == ("u", "say u", "s1")
    assert utterance.audio.read() == (tmp_path / "c" / "audio" / "a.wav").read_bytes()
    fields = {"recording_id": "a", "language": "English", "speaker": "s1", "gender": "F", "snr": "9"}
    assert utterance.fields == fields


def test_supervisions_are_cut_to_the_sample(tmp_path: Path) -> None:
    later = cut(supervision("w", 0.0, 0.50005), id="later", start=0.5, duration=0.5)
    file = write_cuts(tmp_path / "c", cut(supervision("u", 0.0, 0.25), supervision("v", 0.25, 0.125)), "", later)
    first, second, third = read(file)
    assert np.array_equal(samples(first), SAMPLES[:2000])
    assert np.array_equal(samples(second), SAMPLES[2000:3000])
    assert np.array_equal(samples(third), SAMPLES[4000:])


def test_gzip_and_a_folder_of_manifests_are_read_alike(tmp_path: Path) -> None:
    file = write_cuts(tmp_path / "c", cut(supervision("u", 0, 1)), cut(supervision("v", 0, 0.5)))
    expected = [(u.id, u.text, u.audio.read()) for u in read(file)]
    file.with_name("cuts.jsonl.gz").write_bytes(gzip.compress(file.read_bytes()))
    file.unlink()
    (file.parent / "recordings.jsonl").write_text('{"id": "a", "sources": []}\n')
    for source in (file.with_name("cuts.jsonl.gz"), file.parent):
        assert [(u.id, u.text, u.audio.read()) for u in read(source)] == expected


def test_an_absolute_path_is_taken_as_it_is(tmp_path: Path) -> None:
    file = write_cuts(tmp_path / "c", cut(supervision("u", 0, 1), source=str(tmp_path / "c" / "audio" / "a.wav")))
    assert read(file.rename(tmp_path / "cuts.jsonl"))[0].id == "u"


WHOLE = supervision("u", 0, 1)


def test_a_url_in_a_bucket_is_read(tmp_path: Path, s3_bucket: str) -> None:
    uri = f"{s3_bucket}/{tmp_path.name}/a.wav"
    manifest = write_cuts(tmp_path, with_source(type="url", source=uri))
    object_store.upload_file(tmp_path / "audio" / "a.wav", uri)
    (tmp_path / "audio" / "a.wav").unlink()
    (utterance,) = read(manifest)
    assert len(samples(utterance)) == 8_000


def with_source(**source: object) -> dict[str, Any]:
    sources = [{"type": "file", "channels": [0], "source": "audio/a.wav"} | source]
    return cut(WHOLE, recording={"id": "a", "sources": sources})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{nonsense", r"not JSON"),
        ("[1]", r"must be a cut"),
        ({"id": "a", "sources": []}, r"must be a cut"),
        (cut(WHOLE, type="MixedCut"), r"is a MixedCut; only MonoCut is read. Save it as audio"),
        (cut(), r"cut 'cut' has no supervisions, so no transcript"),
        (cut("x"), r"a supervision must be an object with 'id' and 'text', got 'x'"),
        (cut(supervision("u", 0, 1, text=None)), r"'text' of supervision 'u' must be a text, got None"),
        (cut(supervision("u", 0, 1, text=" ")), r"'text' of supervision 'u' must be a text, got ' '"),
        (cut(supervision("u", "0", 1)), r"'start' of 'u' must be seconds, got '0'"),
        (cut(supervision("u", 0, float("nan"))), r"'duration' of 'u' must be seconds, got nan"),
        (cut(supervision("u", 0, 10**400)), r"'duration' of 'u' must be seconds"),
        (cut(WHOLE, start=None), r"'start' of 'cut' must be seconds, got None"),
        (cut(supervision("u", 0.5, 1)), r"the piece from 0\.5 s to 1\.5 s does not lie in the recording"),
        (cut(supervision("u", 0.5, 0)), r"the piece from 0\.5 s to 0\.5 s does not lie in the recording"),
        (cut(WHOLE, recording=None), r"'recording' must be an object with 'sources', got None"),
        (cut(WHOLE, recording={"sources": [], "transforms": [{"name": "Speed"}]}), r"has transforms.*Save it as audio"),
        (cut(WHOLE, recording={"sources": ["x"]}), r"a source must be an object"),
        (cut(WHOLE, channel=1), r"no source of the recording has channel 1"),
        (with_source(type="command", source="sox x"), r"type 'command'; only 'file' .* never run.*Save it as audio"),
        (with_source(type="url", source="https://x"), r"type 'url'; only 'file' is read"),
        (with_source(source=None), r"'source' must be a path, got None"),
        (cut(WHOLE, source="gone.wav"), r"audio .*gone\.wav cannot be read: No such"),
        (cut(WHOLE, source="cuts.jsonl"), r"cannot decode .* as audio"),
        (cut(WHOLE, source="audio/stereo.wav"), r"the recording has 2 channels"),
    ],
)
def test_a_bad_line_names_file_line_and_reason(tmp_path: Path, row: object, reason: str) -> None:
    with pytest.raises(DataError, match=r"cuts\.jsonl, line 2: .*" + reason):
        [utterance.audio.read() for utterance in read(write_cuts(tmp_path / "c", cut(WHOLE), row))]


def test_a_truncated_gzip_and_a_missing_file_are_named(tmp_path: Path) -> None:
    file = write_cuts(tmp_path / "c", cut(WHOLE))
    packed = file.with_name("short.jsonl.gz")
    packed.write_bytes(gzip.compress(file.read_bytes())[:-20])
    for path in (packed, tmp_path / "gone.jsonl"):
        with pytest.raises(DataError, match=rf"{path.name}: cannot be read around line 1"):
            read(path)
    with pytest.raises(DataError, match=r"no manifest of cuts"):
        read(tmp_path / "c" / "audio")


def test_manifests_of_cuts_are_told_from_others(tmp_path: Path) -> None:
    file = write_cuts(tmp_path / "c", cut(WHOLE))
    assert is_lhotse(file) and is_lhotse(file.parent)
    own = tmp_path / "own" / "manifest.jsonl"
    own.parent.mkdir()
    own.write_text('{"audio": "a.wav", "text": "x"}\n')
    (tmp_path / "deep.jsonl").write_text("[" * 100_000)
    others = (own, own.parent, tmp_path / "deep.jsonl", tmp_path / "c" / "audio" / "a.wav", tmp_path / "gone")
    assert not any(map(is_lhotse, others))
