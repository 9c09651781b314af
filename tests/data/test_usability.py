import io

import numpy as np
import pytest
import soundfile

from jasper_ray.audio.decode import decode_audio, resampled_length
from jasper_ray.config.data import PreparationConfig
from jasper_ray.config.speech import ENGLISH_ALPHABET
from jasper_ray.data.readers.corpus import AudioBytes, CorpusUtterance
from jasper_ray.data.usability import Rejection, Usable, examine
from jasper_ray.text.alphabet import Alphabet


def audio(num_samples: int = 16000, rate_hz: int = 16000, container: str = "FLAC", subtype: str | None = None) -> bytes:
    tone = 0.5 * np.sin(np.arange(num_samples) * 440 * 2 * np.pi / rate_hz)
    buffer = io.BytesIO()
    soundfile.write(buffer, tone, rate_hz, format=container, subtype=subtype)
    return buffer.getvalue()


def look(content: bytes, text: str = "hello there", **options: object) -> list[Usable | Rejection]:
    utterance = CorpusUtterance("u", AudioBytes(content), "u.flac", text, "s")
    return examine(utterance, alphabet=Alphabet(ENGLISH_ALPHABET), config=PreparationConfig(**options))


@pytest.mark.parametrize(
    ("text", "options", "kind"),
    [
        ("hello there", {"min_duration_s": 1.1}, "too short"),
        ("hello there", {"max_duration_s": 0.9}, "too long"),
        ("hello there", {"min_characters": 12}, "transcript too short"),
        ("hello there", {"max_characters_per_s": 10.5}, "too short for its transcript"),
        ("hello <noise> there", {"reject_text": "<.*>"}, "transcript refused"),
        ("route 66", {}, "characters outside the alphabet"),
        ("!?", {}, "transcript empty"),
    ],
)
def test_a_filter_leaves_out_what_it_names_and_says_why(text: str, options: dict[str, object], kind: str) -> None:
    (rejection,) = look(audio(), text, **options)
    assert isinstance(rejection, Rejection)
    assert (rejection.id, rejection.kind) == ("u", kind) and rejection.reason


def test_an_utterance_at_the_very_limits_stays() -> None:
    limits = {"min_duration_s": 1.0, "max_duration_s": 1.0001, "min_characters": 11, "max_characters_per_s": 11.0}
    (usable,) = look(audio(), **limits)
    assert isinstance(usable, Usable) and usable.text == "hello there"


def test_copies_at_other_speeds_stand_beside_the_untouched_original() -> None:
    original, slow, fast = look(audio(8001, 8000), speeds=(0.9, 1.1))
    assert isinstance(slow, Usable) and isinstance(fast, Usable) and isinstance(original, Usable)
    assert original.audio == audio(8001, 8000)
    assert [item.id for item in (original, slow, fast)] == ["u", "u-sp0.9", "u-sp1.1"]
    for copy, speed in ((slow, 0.9), (fast, 1.1)):
        assert (copy.text, copy.speaker, copy.info.sample_rate_hz) == ("hello there", "s", 8000)
        assert copy.info.num_samples == resampled_length(8001, 8000, 8000, speed)
        waveform = decode_audio(copy.audio, sample_rate_hz=8000)
        spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
        assert spectrum.argmax() * 8000 / len(waveform) == pytest.approx(440 * speed, abs=1.5)


def test_limits_hold_for_copies_at_other_speeds_too() -> None:
    limits = {"speeds": (0.9, 1.1), "max_duration_s": 1.05, "max_characters_per_s": 11.5}
    original, slow, fast = look(audio(), **limits)
    assert isinstance(original, Usable)
    assert isinstance(slow, Rejection) and (slow.id, slow.kind) == ("u-sp0.9", "too long")
    assert isinstance(fast, Rejection) and (fast.id, fast.kind) == ("u-sp1.1", "too short for its transcript")
    (rejection,) = look(audio(), min_duration_s=1.2, speeds=(0.9,), max_duration_s=None)[:1]
    assert isinstance(rejection, Rejection) and rejection.kind == "too short"


def test_recordings_without_words_are_usable_when_only_audio_is_asked_for() -> None:
    (noise,) = look(audio(), "", audio_only=True)
    assert isinstance(noise, Usable) and noise.text == ""


@pytest.mark.parametrize(
    ("container", "subtype", "rate_hz"),
    [
        ("WAV", "PCM_24", 48000),
        ("WAV", "FLOAT", 44100),
        ("WAV", "ULAW", 8000),
        ("FLAC", "PCM_24", 22050),
        ("OGG", "VORBIS", 16000),
        ("OGG", "OPUS", 48000),
        ("MP3", None, 16000),
        ("AIFF", None, 11025),
    ],
)
def test_what_libsndfile_reads_is_stored_untouched(container: str, subtype: str | None, rate_hz: int) -> None:
    content = audio(rate_hz, rate_hz, container, subtype)
    (usable,) = look(content)
    assert isinstance(usable, Usable)
    assert usable.audio == content
    assert (usable.info.container, usable.info.sample_rate_hz, usable.info.channels) == (container, rate_hz, 1)
