import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import soundfile

from jasper_ray.audio.decode import decode_audio
from jasper_ray.data.readers.clips import TO_THE_END, AudioClip
from jasper_ray.data.readers.corpus import AudioBytes, AudioPart
from jasper_ray.errors import AudioError

RATE_HZ = 16_000
FORMATS = [
    ("WAV", "PCM_16"),
    ("WAV", "FLOAT"),
    ("WAV", "ULAW"),
    ("AIFF", "PCM_24"),
    ("FLAC", "PCM_16"),
    ("FLAC", "PCM_24"),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]


def encoded(container: str = "FLAC", subtype: str = "PCM_16", *, seconds: float = 5.0, channels: int = 1) -> bytes:
    noise = np.random.default_rng(0).normal(scale=0.1, size=(round(seconds * RATE_HZ), channels))
    file = io.BytesIO()
    soundfile.write(file, noise, RATE_HZ, format=container, subtype=subtype)
    return file.getvalue()


def cut_of_the_whole(content: bytes, first: int, last: int) -> bytes:
    file = io.BytesIO()
    waveform = decode_audio(content, sample_rate_hz=RATE_HZ)[first:last]
    soundfile.write(file, waveform, RATE_HZ, format="FLAC", subtype="PCM_16")
    return file.getvalue()


@dataclass(frozen=True)
class Counted(AudioBytes):
    """Counts what is read of it."""

    reads: list[int] = field(default_factory=list)

    def open(self) -> BinaryIO:
        stream, read = io.BytesIO(self.content), self.reads

        class Stream(io.BytesIO):
            def readinto(self, buffer: memoryview) -> int:
                read.append(len(buffer))
                return super().readinto(buffer)

        return Stream(stream.getvalue())

    def read(self) -> bytes:
        self.reads.append(len(self.content))
        return self.content


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("container", "subtype"), FORMATS)
def test_a_piece_is_bit_for_bit_what_is_cut_from_the_whole_decoded(container: str, subtype: str, channels: int) -> None:
    content = encoded(container, subtype, channels=channels)
    for start_s, duration_s in ((0.0, 1.0), (1.23456, 0.5), (3.0, 1.99), (0.1, 4.8)):
        piece = AudioClip(AudioBytes(content), start_s, duration_s, "here").read()
        first, last = round(start_s * RATE_HZ), round((start_s + duration_s) * RATE_HZ)
        assert piece == cut_of_the_whole(content, first, last), (start_s, duration_s)


@pytest.mark.parametrize("container", ["WAV", "FLAC"])
def test_of_a_long_recording_only_the_piece_is_read(container: str) -> None:
    source = Counted(encoded(container, seconds=200.0))
    AudioClip(source, 150.0, 1.0, "here").read()
    assert sum(source.reads) < len(source.content) / 4


def test_a_piece_of_a_file_in_a_tar_is_found_without_its_beginning(tmp_path: Path) -> None:
    content = encoded()
    (tmp_path / "a.tar").write_bytes(b"x" * 1000 + content + b"y" * 1000)
    clip = AudioClip(AudioPart(tmp_path / "a.tar", 1000, len(content), "here"), 1.0, 0.5, "here")
    assert clip.read() == cut_of_the_whole(content, RATE_HZ, RATE_HZ * 3 // 2)


@pytest.mark.parametrize("container", ["FLAC", "MP3"])
def test_a_piece_that_is_the_whole_to_within_a_sample_is_the_file_itself(container: str) -> None:
    content = encoded(container, "PCM_16" if container == "FLAC" else "MPEG_LAYER_III")
    for start_s, duration_s in ((0.0, 5.0), (1 / RATE_HZ, 5.0), (0.0, 5.0 - 1 / RATE_HZ), (0.0, TO_THE_END), (0, 5.01)):
        assert AudioClip(AudioBytes(content), start_s, duration_s, "here").read() == content


@pytest.mark.parametrize("container", ["FLAC", "MP3"])
def test_an_end_a_little_behind_the_recordings_is_its_end(container: str) -> None:
    content = encoded(container, "PCM_16" if container == "FLAC" else "MPEG_LAYER_III")
    for duration_s in (TO_THE_END, 1.0, 1.009):
        clip = AudioClip(AudioBytes(content), 4.0, duration_s, "here")
        assert clip.read() == cut_of_the_whole(content, 4 * RATE_HZ, 5 * RATE_HZ)


@pytest.mark.parametrize(
    ("clip", "reason"),
    [
        (AudioClip(AudioBytes(encoded()), 4.0, 1.1, "line 7"), r"the piece from 4 s to 5\.1 s does not .* lasts 5 s"),
        (AudioClip(AudioBytes(encoded()), 9.0, TO_THE_END, "line 7"), r"the piece from 9 s to inf s does not lie"),
        (AudioClip(AudioBytes(encoded()), -1.0, 1.0, "line 7"), r"the piece from -1 s to 0 s does not lie"),
        (AudioClip(AudioBytes(encoded()), math.nan, 1.0, "line 7"), r"a piece of 1\.0 s from nan s is not possible"),
        (
            AudioClip(AudioBytes(b"no audio"), 0.0, 1.0, "line 7"),
            r"cannot decode 8 bytes as audio: they look like text",
        ),
        (AudioClip(AudioBytes(encoded()[:-20_000]), 4.0, 0.9, "line 7"), r"truncated"),
        (AudioClip(AudioBytes(encoded(channels=2)), 1.0, 1.0, "line 7", only_mono=True), r"has 2 channels"),
        (AudioClip(AudioBytes(encoded("OGG", "OPUS", channels=2)), 1.0, 1.0, "line 7", only_mono=True), r"2 channels"),
    ],
)
def test_a_piece_that_cannot_be_had_names_place_and_reason(clip: AudioClip, reason: str) -> None:
    with pytest.raises(AudioError, match=r"^line 7: .*" + reason):
        clip.read()


def test_samples_that_are_no_numbers_are_an_error_where_they_lie() -> None:
    waveform = np.zeros(RATE_HZ, np.float32)
    waveform[-1] = np.nan
    file = io.BytesIO()
    soundfile.write(file, waveform, RATE_HZ, format="WAV", subtype="FLOAT")
    with pytest.raises(AudioError, match=r"^line 7: 1 of .* samples are NaN"):
        AudioClip(AudioBytes(file.getvalue()), 0.5, 0.5, "line 7").read()


def test_the_size_is_estimated_without_reading_and_bounded_for_absurd_durations() -> None:
    source = Counted(b"x" * 1000)
    sizes = [AudioClip(source, 0.0, duration_s, "here").num_bytes for duration_s in (0.1, 1e9, TO_THE_END)]
    assert sizes == [2000, 16_000, 1000] and not source.reads
