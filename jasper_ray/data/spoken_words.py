"""Speech with known word edges: eSpeak NG says where in the samples it begins each word."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import soxr

from jasper_ray.data.espeak import Espeak, WordBegin
from jasper_ray.data.synthetic import DIGITS, Voice, transcript

SILENCE = 0.02
"""Share of the utterance's loudest sample below which a word has not begun or is over."""


@dataclass(frozen=True)
class SpokenText:
    """A text in one go, as in the embedded corpus."""

    text: str
    waveform: np.ndarray
    """`(N,)` float32, full scale 1."""
    edges_s: tuple[tuple[float, float], ...]
    """Beginning and end of each word: where it sounds."""


def spoken_texts(count: int, split: str, *, digits: bool) -> list[str]:
    """What is said: transcripts of a split of the embedded corpus, or those of digits only."""
    found: list[str] = []
    number = 0
    while len(found) < count:
        text = transcript(split, number)
        number += 1
        if not digits or set(text.split()) <= set(DIGITS):
            found.append(text)
    return found


def speak_texts(said: Sequence[str], speakers: Sequence[Voice], *, rate_hz: int) -> Iterator[SpokenText]:
    """Each text by one of the voices; without those of which eSpeak NG takes words together.

    Args:
        said: Words separated by single spaces.
        speakers: Voices, in turn.
        rate_hz: Of the waveforms.

    Raises:
        DataError: eSpeak NG is not installed, or is silent.
    """
    with Espeak() as espeak:
        for number, text in enumerate(said):
            voice = speakers[number * 7 % len(speakers)]
            samples, begins = espeak.speak_words(
                {
                    "text": text,
                    "voice": voice.espeak_name,
                    "pitch": voice.pitch,
                    "range": voice.range,
                    "rate": voice.rate,
                }
            )
            edges = _sounding(samples, _begins(text, begins))
            if edges is None:
                continue
            waveform = soxr.resample(samples.astype(np.float32) / 2**15, espeak.sample_rate_hz, rate_hz, quality="HQ")
            of_rate = 1 / espeak.sample_rate_hz
            yield SpokenText(text, waveform, tuple((begin * of_rate, end * of_rate) for begin, end in edges))


def _begins(text: str, begins: Sequence[WordBegin]) -> list[int]:
    """First samples of the words of a text; none if not every word has one."""
    position, characters = 0, []
    for word in text.split(" "):
        characters.append(position)
        position += len(word) + 1
    return [begin.sample for begin in begins] if [begin.character for begin in begins] == characters else []


def _sounding(samples: np.ndarray, begins: Sequence[int]) -> list[tuple[int, int]] | None:
    """First and one behind the last loud sample of each word, which ends before the next one begins."""
    loudness = np.abs(samples.astype(np.int32))
    edges = []
    for begin, until in pairwise([*begins, len(samples)]):
        loud = np.flatnonzero(loudness[begin:until] > SILENCE * loudness.max())
        if not len(loud):
            return None
        edges.append((begin + int(loud[0]), begin + int(loud[-1]) + 1))
    return edges or None
