import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from jasper_ray.data.readers.corpus import CorpusUtterance
from jasper_ray.data.readers.kaldi import is_kaldi, read_kaldi
from jasper_ray.errors import AudioError, DataError

RATE_HZ = 8000
SAMPLES = (np.random.default_rng(0).standard_normal(RATE_HZ) * 3000).astype(np.int16)


def write_folder(folder: Path, **files: str) -> Path:
    """A folder with two recordings of a second; `wav_scp` stands for wav.scp."""
    (folder / "audio").mkdir(parents=True)
    soundfile.write(folder / "audio" / "a.wav", SAMPLES, RATE_HZ)
    soundfile.write(folder / "audio" / "b c.flac", SAMPLES[::-1], RATE_HZ)
    defaults = {"wav_scp": "a audio/a.wav\nb audio/b c.flac\n", "text": "a hello there\nb\tyou  two\n"}
    for name, content in (defaults | files).items():
        (folder / name.replace("_", ".")).write_text(content)
    return folder


def read(source: Path) -> list[CorpusUtterance]:
    return list(read_kaldi(source))


def test_a_data_folder_gives_ids_texts_speakers_and_the_files_themselves(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", utt2spk="a s1\nb s2\n")
    assert [(u.id, u.text, u.speaker, u.audio.read()) for u in read(folder)] == [
        ("a", "hello there", "s1", (folder / "audio" / "a.wav").read_bytes()),
        ("b", "you  two", "s2", (folder / "audio" / "b c.flac").read_bytes()),
    ]
    assert read(folder)[0].fields == {"recording": "a", "speaker": "s1"}


def test_without_utt2spk_the_speaker_is_not_known(tmp_path: Path) -> None:
    utterance = read(write_folder(tmp_path / "data"))[0]
    assert (utterance.speaker, utterance.fields) == ("", {"recording": "a"})


def test_segments_are_cut_to_the_sample(tmp_path: Path) -> None:
    folder = write_folder(
        tmp_path / "data", segments="u1 a 0 0.25\nu2 a 0.5 -1\nu3 b 0 -1\n", text="u1 one\nu2 two\nu3 three\n"
    )
    first, second, whole = read(folder)
    assert np.array_equal(soundfile.read(io.BytesIO(first.audio.read()), dtype="int16")[0], SAMPLES[:2000])
    assert np.array_equal(soundfile.read(io.BytesIO(second.audio.read()), dtype="int16")[0], SAMPLES[4000:])
    assert whole.audio.read() == (folder / "audio" / "b c.flac").read_bytes()
    assert [(u.id, u.text, u.fields["recording"]) for u in (first, second)] == [("u1", "one", "a"), ("u2", "two", "a")]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"wav_scp": "a audio/a.wav\nb sox x.wav -t wav - |\n"}, r"wav\.scp, line 2: b .*never run.*Convert the audio"),
        ({"wav_scp": "a audio/a.wav\nb raw.ark:1234\n"}, r"wav\.scp, line 2: b .*archive.*Convert the audio"),
        ({"wav_scp": "a audio/a.wav\nb gone.wav\n"}, r"wav\.scp, line 2: b: audio .*gone\.wav cannot be read: No such"),
        ({"wav_scp": "a audio/a.wav\n"}, r"text, line 2: b has no audio"),
        ({"text": "a hello\n"}, r"wav\.scp: b has no line in .*text"),
        ({"text": "a hello\nb\n"}, r"text, line 2: must be an id, a space and a value, got 'b'"),
        ({"text": "a hello\nb x\na again\n"}, r"text, line 3: a comes twice, first in line 1"),
        ({"utt2spk": "a s\n"}, r"utt2spk: has no line for b"),
        ({"segments": "a a 0 1\nb b 0\n"}, r"segments, line 2: must be an utterance, a recording"),
        ({"segments": "a a 0 1\nb b 0 x\n"}, r"segments, line 2: must be an utterance, a recording"),
        ({"segments": "a a 0 1\nb b 0.5 nan\n"}, r"segments, line 2: must have 0 <= start < end .* got 0\.5 and nan"),
        ({"segments": "a a 0 1\nb b 0.5 1e308\n"}, r"segments, line 2: must have 0 <= start < end"),
        ({"segments": "a a 0 1\nb b 0 2\n"}, r"segments, line 2: the piece from 0 s to 2 s does not lie"),
        ({"segments": "a a 0 1\nb b 3 -1\n"}, r"segments, line 2: the piece from 3 s"),
        ({"segments": "a a 0 1\nb x 0 1\n"}, r"segments, line 2: b is cut from x, which .*wav\.scp does not have"),
        ({"segments": "a a 0 1\nb a 0 1\n"}, r"segments: has no line for recording b"),
        ({"segments": "a a 0 1\nc b 0 1\n"}, r"text, line 2: b has no audio"),
        ({"segments": "a a 0 1\nb b 0 1\nc b 0 1\n"}, r"segments, line 3: c has no line in .*text"),
    ],
)
def test_what_is_wrong_names_file_line_and_reason(tmp_path: Path, files: dict[str, str], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        [utterance.audio.read() for utterance in read(write_folder(tmp_path / "data", **files))]


def test_an_end_up_to_half_a_second_too_late_is_the_recordings_end_as_in_kaldi(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", segments="a a 0.5 1.5\nb b 0.5 1.50025\n")
    fits, too_long = read(folder)
    assert np.array_equal(soundfile.read(io.BytesIO(fits.audio.read()), dtype="int16")[0], SAMPLES[4000:])
    with pytest.raises(AudioError, match=r"segments, line 2: the piece from 0\.5 s to 1\.50025 s does not lie"):
        too_long.audio.read()


def test_a_folder_without_text_is_named(tmp_path: Path) -> None:
    (write_folder(tmp_path / "data") / "text").unlink()
    with pytest.raises(DataError, match=r"text: cannot be read"):
        read(tmp_path / "data")


def test_a_data_folder_is_told_from_others(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data")
    (tmp_path / "manifest.jsonl").write_text('{"audio": "a.wav", "text": "x"}\n')
    assert is_kaldi(folder)
    others = (folder / "audio", tmp_path, tmp_path / "manifest.jsonl", folder / "wav.scp", tmp_path / "gone")
    assert not any(map(is_kaldi, others))
