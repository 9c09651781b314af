"""Word times beside the truth: words spoken one by one by eSpeak NG and spoken at known places."""

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from jasper_ray.config.data import DatasetConfig
from jasper_ray.data.spoken_words import SpokenText, speak_texts, spoken_texts
from jasper_ray.data.synthetic import voices
from jasper_ray.decoding.alignment import WordSpan
from jasper_ray.decoding.confidence import Calibration, read_calibrations
from jasper_ray.decoding.decoder import GreedyDecoder
from jasper_ray.decoding.words import WordKeeper, words_of
from jasper_ray.inference.transcriber import Transcriber
from jasper_ray.model.bundle import load_bundle
from jasper_ray.training.assembly import read_datasets
from jobs.log_probs import compute_log_probs


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
    said = spoken_texts(arguments.utterances, arguments.split, digits=arguments.digits)
    spoken = list(speak_texts(said, voices(arguments.split), rate_hz=transcriber.sample_rate_hz))
    say(f"{len(spoken)} utterances spoken, {sum(len(one.edges_s) for one in spoken)} words")
    calibrations = read_calibrations(arguments.bundle)
    of_given = calibrations.get("beam") or calibrations.get("greedy") or Calibration()
    aligned: list[tuple[float, float]] = []
    decoded: list[tuple[float, float]] = []
    heard = transcriber.transcribe([one.waveform for one in spoken], with_log_probs=True)
    num_right = 0
    for truth, found in zip(spoken, heard, strict=True):
        assert found.log_probs is not None
        words = words_of(truth.text, found.log_probs, transcriber.alphabet, frame_s=transcriber.frame_s)
        aligned += _errors(truth, of_given.apply(words, end_s=found.duration_s))
        if " ".join(found.text.split()) == truth.text:
            num_right += 1
            decoded += _errors(truth, found.words)
    return {
        "bundle": arguments.bundle,
        "utterances": len(spoken),
        "frame_ms": 1000 * transcriber.frame_s,
        "shifts_ms": {
            method: [1000 * one.start_shift_s, 1000 * one.end_shift_s] for method, one in calibrations.items()
        },
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
    calibrations = read_calibrations(uri)
    greedy = calibrations.get("greedy", Calibration())
    of_given = calibrations.get("beam", greedy)
    for row, scores in enumerate(compute_log_probs(bundle, manifest, device="cpu", threads=1)):
        length = torch.tensor([len(scores)])
        (text,) = keeper.texts(torch.from_numpy(scores)[None], length)
        given = words_of(manifest.texts[row], scores, bundle.alphabet, frame_s=frame_s)
        duration_s = float(manifest.durations_s[row])
        end_s = duration_s + frame_s  # the last frame of an utterance may reach behind its last sample
        checked["given_text"].add(manifest.texts[row], of_given.apply(given, end_s=duration_s), end_s)
        checked["decoded"].add(text, greedy.apply(keeper.words[-1], end_s=duration_s), end_s)
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


def _errors(truth: SpokenText, found: Sequence[WordSpan]) -> list[tuple[float, float]]:
    """Found minus true beginning and end of each word."""
    if len(found) != len(truth.edges_s):
        return []
    pairs = zip(found, truth.edges_s, strict=True)
    return [(word.start_s - true_start, word.end_s - true_end) for word, (true_start, true_end) in pairs]


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
