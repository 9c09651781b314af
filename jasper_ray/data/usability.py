"""Whether an utterance of a corpus can be used, found out by decoding it, and what is stored of it."""

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import soundfile

from jasper_ray.audio.containers import readable_audio
from jasper_ray.audio.decode import AudioInfo, audio_info, decode_audio
from jasper_ray.config.data import PreparationConfig
from jasper_ray.data.readers.corpus import CorpusUtterance
from jasper_ray.errors import AudioError
from jasper_ray.text.alphabet import Alphabet
from jasper_ray.text.transcripts import stored_text


@dataclass(frozen=True)
class Usable:
    """An utterance as it goes into a shard."""

    id: str
    audio: bytes
    path: str
    text: str
    speaker: str
    info: AudioInfo


@dataclass(frozen=True)
class Rejection:
    """An utterance that is left out."""

    id: str
    kind: str
    """Group of reasons, for counting."""
    reason: str


def count_by_kind(rejections: Iterable[Rejection]) -> list[tuple[str, int]]:
    """Groups of reasons with their numbers, the largest first."""
    return sorted(Counter(item.kind for item in rejections).items(), key=lambda pair: (-pair[1], pair[0]))


class _Refused(Exception):
    """Why an utterance is left out: kind and reason."""


def examine(utterance: CorpusUtterance, *, alphabet: Alphabet, config: PreparationConfig) -> list[Usable | Rejection]:
    """What becomes of an utterance: itself, then its copies at other speeds, each with the reason if it is left out.

    The copies of an utterance that cannot be used at all are not spoken of.

    Raises:
        DataError: Its audio cannot be read: a fault of the disk or the corpus, not of this utterance.
    """
    try:
        text = _text(utterance, alphabet, config)
        encoded = readable_audio(utterance.audio.read())
        info = audio_info(encoded)
        waveform = decode_audio(encoded, sample_rate_hz=info.sample_rate_hz)
        if not np.any(waveform):
            raise _Refused("silence", "the audio is digital silence")
    except AudioError as error:
        return [Rejection(utterance.id, "audio cannot be read", str(error))]
    except _Refused as refused:
        return [Rejection(utterance.id, *refused.args)]
    original = Usable(utterance.id, encoded, utterance.path, text, utterance.speaker, info)
    return [_within_limits(version, config) for version in (original, *_copies(original, config))]


def _text(utterance: CorpusUtterance, alphabet: Alphabet, config: PreparationConfig) -> str:
    if config.audio_only:
        return ""
    if config.reject_text is not None and (found := re.search(config.reject_text, utterance.text)):
        raise _Refused("transcript refused", f"the transcript has {found[0]!r}, which reject_text looks for")
    text = stored_text(utterance.text, alphabet.labels, config)
    if not text:
        raise _Refused("transcript empty", "the transcript is empty")
    try:
        alphabet.encode(text)
    except ValueError as error:
        raise _Refused("characters outside the alphabet", str(error)) from None
    if len(text) < config.min_characters:
        raise _Refused(
            "transcript too short",
            f"the transcript {text!r} has {len(text)} characters, at least {config.min_characters} are asked for",
        )
    return text


def _within_limits(version: Usable, config: PreparationConfig) -> Usable | Rejection:
    duration_s, text = version.info.duration_s, version.text
    if duration_s < config.min_duration_s:
        reason = f"it lasts {duration_s:g} s, at least {config.min_duration_s:g} s are asked for"
        return Rejection(version.id, "too short", reason)
    if config.max_duration_s is not None and duration_s > config.max_duration_s:
        reason = f"it lasts {duration_s:g} s, at most {config.max_duration_s:g} s are asked for"
        return Rejection(version.id, "too long", reason)
    if len(text) > duration_s * config.max_characters_per_s:
        reason = f"it lasts {duration_s:g} s, too short for a transcript of {len(text)} characters"
        return Rejection(version.id, "too short for its transcript", reason)
    return version


def _copies(original: Usable, config: PreparationConfig) -> Iterator[Usable]:
    rate_hz = original.info.sample_rate_hz
    for speed in config.speeds:
        waveform = decode_audio(original.audio, sample_rate_hz=rate_hz, speed=speed)
        buffer = io.BytesIO()
        soundfile.write(buffer, waveform.clip(-1, 1), rate_hz, format="FLAC", subtype="PCM_16")
        name, suffix = f"{original.id}-sp{speed:g}", f"#speed={speed:g}"
        audio = buffer.getvalue()
        yield Usable(name, audio, original.path + suffix, original.text, original.speaker, audio_info(audio))
