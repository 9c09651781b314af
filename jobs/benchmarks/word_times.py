"""Word times beside the truth: words spoken one by one by eSpeak NG and joined at known places."""

import argparse
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import soxr
import torch

from jasper_ray.config.data import DatasetConfig
from jasper_ray.data.espeak import Espeak
from jasper_ray.data.synthetic import DIGITS, Voice, transcript, voices
from jasper_ray.decoding.alignment import WordSpan
from jasper_ray.decoding.decoder import GreedyDecoder
from jasper_ray.decoding.words import WordKeeper, words_of
from jasper_ray.inference.transcriber import Transcriber
from jasper_ray.model.bundle import load_bundle
from jasper_ray.training.assembly import read_datasets
from jobs.log_probs import compute_log_probs

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


def add_times_benchmark(parser: argparse.ArgumentParser) -> None:
    """The options of the part."""
    parser.add_argument("bundle", help="folder of the bundle")
    parser.add_argument("--utterances", type=int, default=100, help="default 100")
    parser.add_argument("--digits", action="store_true", help="digits only, for a model that has heard nothing else")
    parser.add_argument("--real", nargs="*", default=[], metavar="DATASET", help="also check times of real speech")
    parser.add_argument("--split", choices=["train", "evaluation"], default="evaluation", help="whose voices")


def measure_times(arguments: argparse.Namespace, say: Callable[[str], None]) -> Mapping[str, Any]:
    """Distances of found edges from true ones, of a given text and of what was decoded."""
    transcriber = Transcriber.from_bundle(arguments.bundle)
    joined = list(
        joined_words(
            texts(arguments.utterances, digits=arguments.digits),
            voices(arguments.split),
            rate_hz=transcriber.sample_rate_hz,
        )
    )
    say(f"{len(joined)} utterances spoken, {sum(len(one.edges_s) for one in joined)} words")
    aligned: list[tuple[float, float]] = []
    decoded: list[tuple[float, float]] = []
    heard = transcriber.transcribe([one.waveform for one in joined], with_log_probs=True)
    num_right = 0
    for truth, found in zip(joined, heard, strict=True):
        assert found.log_probs is not None
        words = words_of(truth.text, found.log_probs, transcriber.alphabet, frame_s=transcriber.frame_s)
        aligned += _errors(truth, [(word.start_s, word.end_s) for word in words])
        if " ".join(found.text.split()) == truth.text:
            num_right += 1
            decoded += _errors(truth, [(word.start_s, word.end_s) for word in found.words])
    return {
        "bundle": arguments.bundle,
        "utterances": len(joined),
        "frame_ms": 1000 * transcriber.frame_s,
        "given_text": _figures(aligned),
        "decoded": _figures(decoded) | {"utterances_without_error": num_right},
        **({"real": check_real(arguments.bundle, arguments.real)} if arguments.real else {}),
    }


def check_real(uri: str, datasets: Sequence[str]) -> Mapping[str, Any]:
    """Whether times of real speech are in order, inside the audio, and one for every word that has room."""
    bundle = load_bundle(uri)
    manifest = read_datasets([DatasetConfig(path=path) for path in datasets], key="--real")
    frame_s = bundle.config.features.hop_s * bundle.config.model.total_stride
    keeper = WordKeeper(GreedyDecoder(bundle.alphabet), bundle.alphabet, frame_s=frame_s)
    checked = {"given_text": Checked(), "decoded": Checked()}
    for row, scores in enumerate(compute_log_probs(bundle, manifest, device="cpu", threads=1)):
        length = torch.tensor([len(scores)])
        (text,) = keeper.texts(torch.from_numpy(scores)[None], length)
        given = words_of(manifest.texts[row], scores, bundle.alphabet, frame_s=frame_s)
        # The last frame of an utterance may reach behind its last sample.
        end_s = float(manifest.durations_s[row]) + frame_s
        checked["given_text"].add(manifest.texts[row], given, end_s)
        checked["decoded"].add(text, keeper.words[-1], end_s)
    return {"utterances": len(manifest), **{name: asdict(one) for name, one in checked.items()}}


@dataclass
class Checked:
    """Counts over utterances."""

    words: int = 0
    in_order: int = 0
    """Words that begin no earlier than the one before ends, and end after they begin."""
    inside: int = 0
    """Words between the beginning and the end of the audio."""
    utterances_covered: int = 0
    """Utterances of which every word has times, in the order of the text."""
    utterances: int = 0

    def add(self, text: str, words: Sequence[WordSpan], end_s: float) -> None:
        """One utterance."""
        self.utterances += 1
        self.utterances_covered += [word.word for word in words] == text.split()
        before_s = 0.0
        for word in words:
            self.words += 1
            self.in_order += before_s <= word.start_s < word.end_s
            self.inside += word.start_s >= 0 and word.end_s <= end_s
            before_s = word.end_s


def texts(count: int, *, digits: bool) -> list[str]:
    """What is said: transcripts of the embedded corpus, or digits of it only."""
    found: list[str] = []
    number = 0
    while len(found) < count:
        text = transcript("evaluation", number)
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


def _errors(truth: Joined, found: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Found minus true beginning and end of each word."""
    if len(found) != len(truth.edges_s):
        return []
    pairs = zip(found, truth.edges_s, strict=True)
    return [(start - true_start, end - true_end) for (start, end), (true_start, true_end) in pairs]


def _figures(errors: Sequence[tuple[float, float]]) -> dict[str, Any]:
    if not errors:
        return {"words": 0}
    starts, ends = ([1000 * pair[side] for pair in errors] for side in (0, 1))
    distances = [abs(error) for error in [*starts, *ends]]
    return {
        "words": len(errors),
        "median_error_ms": statistics.median(distances),
        "median_start_ms": statistics.median(map(abs, starts)),
        "median_end_ms": statistics.median(map(abs, ends)),
        "median_start_late_ms": statistics.median(starts),
        "median_end_late_ms": statistics.median(ends),
        "within_40_ms": sum(distance <= 40 for distance in distances) / len(distances),
        "within_80_ms": sum(distance <= 80 for distance in distances) / len(distances),
    }
