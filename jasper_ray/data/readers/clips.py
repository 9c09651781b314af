"""A piece of a longer recording as a file of its own."""

import io
import math
from dataclasses import dataclass, replace

import numpy as np
import soundfile

from jasper_ray.audio.decode import MAX_SAMPLES_PER_BYTE, AudioInfo, audio_info, decode_audio
from jasper_ray.data.readers.corpus import Recording
from jasper_ray.errors import AudioError

OVERSHOOT_S = 0.01
"""A piece may end this much behind the recording's end: manifests state seconds rounded to a hundredth."""
TO_THE_END = math.inf
"""Duration of a piece that goes to the end of its recording, wherever that is."""
# Formats in which libsndfile gives the same samples after a seek as when it decodes from the start. Not so Opus and
# MP3, whose decoders carry state along.
EXACT_SEEK_FORMATS = ("WAV", "WAVEX", "W64", "RF64", "AIFF", "FLAC")
EXACT_SEEK_SUBTYPES = ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")
# FLAC of speech at 16 kHz takes 16 to 20 kB/s; of what is better than that, more.
ESTIMATED_BYTES_PER_S = 20_000
# A piece of an MP3 grows about tenfold: a bound for rows that state absurd durations.
MAX_GROWTH = 16


@dataclass(frozen=True)
class AudioClip:
    """Mono 16-bit FLAC of a piece of a recording at its own rate; a piece that is all of it is the file itself."""

    source: Recording
    start_s: float
    """First second; samples are rounded to the nearest."""
    duration_s: float
    """Length in seconds, or `TO_THE_END`."""
    where: str
    """File and line that ask for it, for messages."""
    overshoot_s: float = OVERSHOOT_S
    """What the piece may reach beyond the recording's end; it then ends there."""
    only_mono: bool = False
    """Whether several channels are an error, rather than mixed."""

    @property
    def num_bytes(self) -> int:
        """Estimated size: a header would have to be read to know more."""
        if self.duration_s == TO_THE_END:
            return self.source.num_bytes
        return int(min(self.duration_s * ESTIMATED_BYTES_PER_S, MAX_GROWTH * self.source.num_bytes))

    def read(self) -> bytes:
        """The encoded piece.

        Raises:
            AudioError: The recording cannot be decoded, or the piece does not lie in it.
            DataError: The recording cannot be read.
        """
        piece = self._read_from_its_start()
        return self._read_whole() if piece is None else piece

    def _read_from_its_start(self) -> bytes | None:
        """The piece without decoding what lies before and behind it; None where the format does not allow that."""
        try:
            with self.source.open() as stream, soundfile.SoundFile(stream) as file:
                is_exact = _seeks_exactly(file)
                if not is_exact or not 0 < file.frames <= MAX_SAMPLES_PER_BYTE * (self.source.num_bytes + 1):
                    return None
                span = self._span(AudioInfo(file.frames, file.samplerate, file.channels))
                if span is None:
                    return self.source.read()
                first, last = span
                file.seek(first)
                waveform = file.read(last - first, dtype="float32", always_2d=True)
                rate_hz = file.samplerate
        except (OSError, soundfile.SoundFileError):
            return None  # reading the whole says what is wrong
        except AudioError as error:
            raise AudioError(f"{self.where}: {error}") from error
        # A file cut short, or samples that are no numbers.
        if len(waveform) != last - first or not np.isfinite(waveform).all():
            return None
        mono = waveform[:, 0] if waveform.shape[1] == 1 else waveform.mean(axis=1, dtype=np.float32)
        return _encode(mono, rate_hz)

    def _read_whole(self) -> bytes:
        content = self.source.read()
        try:
            info = audio_info(content)
            if self._span(info) is None:
                return content
            waveform = decode_audio(content, sample_rate_hz=info.sample_rate_hz)
        except AudioError as error:
            raise AudioError(f"{self.where}: {error}") from error
        # An MP3 may hold a little more or less than its header says.
        first, last = self._span(replace(info, num_samples=len(waveform))) or (0, len(waveform))
        return _encode(waveform[first:last], info.sample_rate_hz)

    def _span(self, info: AudioInfo) -> tuple[int, int] | None:
        """First sample and the one behind the last; None if that is the whole recording, to within a sample."""
        if self.only_mono and info.channels > 1:
            raise AudioError(
                f"the recording has {info.channels} channels, which would be mixed: write each to a file "
                "of its own and name that"
            )
        if math.isnan(self.start_s + self.duration_s) or math.isinf(self.start_s):
            raise AudioError(f"a piece of {self.duration_s} s from {self.start_s} s is not possible")
        rate_hz, end_s = (
            info.sample_rate_hz,
            min(self.start_s + self.duration_s, info.duration_s + self.overshoot_s + 1),
        )
        first, last = round(self.start_s * rate_hz), round(end_s * rate_hz)
        if self.duration_s == TO_THE_END or info.num_samples < last <= info.num_samples + self.overshoot_s * rate_hz:
            last = info.num_samples
        # Seconds in a manifest are rounded.
        if abs(first) <= 1 and first < last and abs(last - info.num_samples) <= 1:
            return None
        if not 0 <= first < last <= info.num_samples:
            raise AudioError(
                f"the piece from {self.start_s:g} s to {self.start_s + self.duration_s:g} s does not lie "
                f"in the recording, which lasts {info.duration_s:g} s"
            )
        return first, last


def _seeks_exactly(file: soundfile.SoundFile) -> bool:
    if file.format == "OGG":
        return bool(file.subtype == "VORBIS")
    return file.format in EXACT_SEEK_FORMATS and file.subtype in EXACT_SEEK_SUBTYPES


def _encode(waveform: np.ndarray, rate_hz: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, rate_hz, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()
