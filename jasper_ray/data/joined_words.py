"""Speech with known word edges: words spoken one by one by eSpeak NG and joined at known places."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import soxr

from jasper_ray.data.espeak import Espeak
from jasper_ray.data.synthetic import DIGITS, Voice, transcript

SILENCE = 0.02
"""Share of the loudest sample below which a word has not begun or is over."""
PAUSE_S = (0.03, 0.15)
EDGE_S = 0.3
NOISE = 1e-4


@dataclass(frozen=True)
class Joined:
    """Words in a row."""

    text: str
    waveform: np.ndarray
    edges_s: tuple[tuple[float, float], ...]
    """Beginning and end of each word."""


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


def joined_words(said: Sequence[str], speakers: Sequence[Voice], *, rate_hz: int) -> Iterator[Joined]:
    """Each text as words that were spoken alone, cut to where they sound, and joined with pauses of random length."""
    rng = np.random.default_rng(0)
    with Espeak() as espeak:
        requests = [
            {"text": word, "voice": voice.espeak_name, "pitch": voice.pitch, "range": voice.range, "rate": voice.rate}
            for number, text in enumerate(said)
            for voice in [speakers[number * 7 % len(speakers)]]
            for word in text.split()
        ]
        spoken = espeak.speak_all(requests)
        for text in said:
            pieces, edges, position = [np.zeros(round(EDGE_S * rate_hz))], [], round(EDGE_S * rate_hz)
            for _ in text.split():
                samples = next(spoken).astype(np.float64) / 2**15
                sound = _sounding(soxr.resample(samples, espeak.sample_rate_hz, rate_hz))
                pause = np.zeros(round(rng.uniform(*PAUSE_S) * rate_hz))
                edges.append((position / rate_hz, (position + len(sound)) / rate_hz))
                pieces += [sound, pause]
                position += len(sound) + len(pause)
            waveform = np.concatenate([*pieces, np.zeros(round(EDGE_S * rate_hz))])
            waveform += rng.normal(scale=NOISE, size=len(waveform))
            yield Joined(text, waveform.astype(np.float32), tuple(edges))


def _sounding(samples: np.ndarray) -> np.ndarray:
    loud = np.flatnonzero(np.abs(samples) > SILENCE * np.abs(samples).max())
    return samples[loud[0] : loud[-1] + 1]
