"""Confidences of words made probabilities, and their times put right: `python -m jobs.calibrate BUNDLE DATASET ...`."""

import argparse
import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch

from jasper_ray.config.data import DatasetConfig
from jasper_ray.config.decoding import DecodingConfig
from jasper_ray.data.spoken_words import speak_texts, spoken_texts
from jasper_ray.data.synthetic import voices
from jasper_ray.decoding.alignment import WordSpan
from jasper_ray.decoding.confidence import (
    Calibration,
    correct_words,
    fit_calibration,
    read_calibrations,
    reliability,
    write_calibration,
)
from jasper_ray.decoding.decoder import build_decoder
from jasper_ray.decoding.word_times import Shift, fit_shift
from jasper_ray.decoding.words import WordKeeper, words_of
from jasper_ray.errors import ConfigError, DataError
from jasper_ray.inference.transcriber import Transcriber
from jasper_ray.model.bundle import Bundle, load_bundle
from jasper_ray.training.assembly import read_datasets
from jobs.decoding import add_decoding_options, read_decoding
from jobs.entry import run_job
from jobs.log_probs import compute_log_probs

FOLDS = 5


def held_out_error(words: Sequence[Sequence[WordSpan]], correct: Sequence[Sequence[bool]]) -> float:
    """Expected calibration error of words whose utterance was not fitted on: each fifth by the other four."""
    confidences: list[float] = []
    right: list[bool] = []
    for fold in range(min(FOLDS, len(words))):
        rest = [row for row in range(len(words)) if row % FOLDS != fold]
        fitted_on = list(chain.from_iterable(words[row] for row in rest))
        if not fitted_on:
            continue
        calibration = fit_calibration(fitted_on, list(chain.from_iterable(correct[row] for row in rest)))
        for row in range(fold, len(words), FOLDS):
            confidences += [word.confidence for word in calibration.apply(words[row])]
            right += correct[row]
    return reliability(confidences, right).error


def _calibrate(arguments: argparse.Namespace) -> Mapping[str, Any]:
    if not arguments.datasets and not arguments.word_times:
        raise ConfigError("nothing to calibrate on: give datasets for confidences, or --word-times N, or both")
    started_s = time.monotonic()
    bundle = load_bundle(arguments.bundle, device=arguments.device)
    config = read_decoding(arguments)
    figures: dict[str, Any] = {"bundle": arguments.bundle, "decoding": config.method}
    calibration = read_calibrations(arguments.bundle).get(config.method, Calibration())
    if arguments.datasets:
        fitted, of_confidences = _fit_confidences(arguments, bundle, config)
        shifts = calibration.model_dump(include={"start_shift_s", "end_shift_s", "num_timed_words"})
        calibration = fitted.model_copy(update=shifts)
        figures |= of_confidences
    if arguments.word_times:
        shift, num_words = _fit_word_times(arguments, bundle)
        update = {"start_shift_s": shift.start_s, "end_shift_s": shift.end_s, "num_timed_words": num_words}
        calibration = calibration.model_copy(update=update)
        figures |= update
    write_calibration(arguments.bundle, config.method, calibration)
    return figures | {"seconds": time.monotonic() - started_s}


def _fit_confidences(
    arguments: argparse.Namespace, bundle: Bundle, config: DecodingConfig
) -> tuple[Calibration, dict[str, Any]]:
    """What makes confidences of words probabilities, and how well."""
    manifest = read_datasets([DatasetConfig(path=path) for path in arguments.datasets], key="DATASET")
    frame_s = bundle.config.features.hop_s * bundle.config.model.total_stride
    utterances = compute_log_probs(bundle, manifest, device=arguments.device, threads=arguments.processes)
    keeper = WordKeeper(
        build_decoder(config, bundle.alphabet, num_processes=arguments.processes), bundle.alphabet, frame_s=frame_s
    )
    try:
        texts = _texts(keeper, utterances)
    finally:
        keeper.close()
    # Where a text did not fit its frames it has no words.
    rows = [row for row, words in enumerate(keeper.words) if len(words) == len(texts[row].split()) > 0]
    words = [keeper.words[row] for row in rows]
    correct = [correct_words(manifest.texts[row], texts[row]) for row in rows]
    flat, right = list(chain.from_iterable(words)), list(chain.from_iterable(correct))
    if not flat:
        raise DataError(f"{arguments.bundle} writes no word of {', '.join(arguments.datasets)}: nothing to fit on")
    calibration = fit_calibration(flat, right, source=", ".join(arguments.datasets))
    before = reliability([word.confidence for word in flat], right)
    return calibration, {
        "words": len(flat),
        "words_right": before.accuracy,
        "calibration_error_before": before.error,
        "calibration_error_after": reliability([word.confidence for word in calibration.apply(flat)], right).error,
        "calibration_error_held_out": held_out_error(words, correct),
        **calibration.model_dump(include={"scale", "entropy_weight", "offset"}),
    }


def _fit_word_times(arguments: argparse.Namespace, bundle: Bundle) -> tuple[Shift, int]:
    """The shift of word edges, fitted on spoken words whose edges are known, and how many there were."""
    transcriber = Transcriber(bundle, device=arguments.device)
    said = spoken_texts(arguments.word_times, "train", digits=arguments.digits)
    spoken = list(speak_texts(said, voices("train"), rate_hz=transcriber.sample_rate_hz))
    heard = transcriber.transcribe([one.waveform for one in spoken], with_log_probs=True)
    words: list[WordSpan] = []
    edges_s: list[tuple[float, float]] = []
    for truth, transcript in zip(spoken, heard, strict=True):
        assert transcript.log_probs is not None
        # Of what was said, not of what was heard: a wrong word has no edges.
        found = words_of(truth.text, transcript.log_probs, bundle.alphabet, frame_s=transcriber.frame_s)
        if found:
            words += found
            edges_s += truth.edges_s
    if not words:
        raise DataError(
            f"the frames of {arguments.bundle} are too long: the words of none of {len(spoken)} spoken texts fit in"
        )
    return fit_shift(words, edges_s), len(words)


def _texts(keeper: WordKeeper, utterances: Sequence[np.ndarray]) -> list[str]:
    """Transcripts in batches, so that a search can use its processes and a neural model its batches."""
    texts: list[str] = []
    for start in range(0, len(utterances), 64):
        part = utterances[start : start + 64]
        padded = torch.zeros(len(part), max(map(len, part)), part[0].shape[1])
        for row, values in enumerate(part):
            padded[row, : len(values)] = torch.from_numpy(values)
        texts += keeper.texts(padded, torch.tensor([len(values) for values in part]))
    return texts


def main() -> None:
    """Fit confidences and times of words on utterances whose text or edges are known; the fit goes into the bundle."""
    parser = argparse.ArgumentParser(prog="python -m jobs.calibrate", description=main.__doc__)
    parser.add_argument("bundle", help="folder of the bundle, local or s3://; confidence.json is written into it")
    parser.add_argument("datasets", nargs="*", metavar="DATASET", help="prepared datasets for confidences, read as one")
    parser.add_argument(
        "--word-times",
        type=int,
        default=0,
        metavar="N",
        help="also fit shifts of word times, on N texts spoken by eSpeak NG (extra [demo]) with known edges",
    )
    parser.add_argument("--digits", action="store_true", help="texts of digits only, for a model of digits")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    add_decoding_options(parser)
    run_job(partial(_calibrate, parser.parse_args()))


if __name__ == "__main__":
    main()
