"""Confidences of words made probabilities: `python -m jobs.calibrate BUNDLE DATASET [DATASET ...]`."""

import argparse
import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch

from jasper_ray.config.data import DatasetConfig
from jasper_ray.decoding.alignment import WordSpan
from jasper_ray.decoding.confidence import correct_words, fit_calibration, reliability, write_calibration
from jasper_ray.decoding.decoder import build_decoder
from jasper_ray.decoding.words import WordKeeper
from jasper_ray.errors import DataError
from jasper_ray.model.bundle import load_bundle
from jasper_ray.training.assembly import read_datasets
from jobs.decoding import add_decoding_options, read_decoding
from jobs.entry import run_job
from jobs.log_probs import compute_log_probs

FOLDS = 5


def held_out_error(words: Sequence[Sequence[WordSpan]], correct: Sequence[Sequence[bool]]) -> float:
    """Expected calibration error of words whose utterance was not fitted on: each fifth by the other four."""
    confidences, right = [], []
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
    started_s = time.monotonic()
    manifest = read_datasets([DatasetConfig(path=path) for path in arguments.datasets], key="DATASET")
    bundle = load_bundle(arguments.bundle, device=arguments.device)
    config = read_decoding(arguments)
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
    write_calibration(arguments.bundle, config.method, calibration)
    before = reliability([word.confidence for word in flat], right)
    return {
        "bundle": arguments.bundle,
        "decoding": config.method,
        "words": len(flat),
        "words_right": before.accuracy,
        "calibration_error_before": before.error,
        "calibration_error_after": reliability([word.confidence for word in calibration.apply(flat)], right).error,
        "calibration_error_held_out": held_out_error(words, correct),
        **calibration.model_dump(include={"scale", "entropy_weight", "offset"}),
        "seconds": time.monotonic() - started_s,
    }


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
    """Fit the confidences of words on development utterances and keep the fit in the bundle."""
    parser = argparse.ArgumentParser(prog="python -m jobs.calibrate", description=main.__doc__)
    parser.add_argument("bundle", help="folder of the bundle, local or s3://; confidence.json is written into it")
    parser.add_argument("datasets", nargs="+", metavar="DATASET", help="prepared datasets, read as one")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    add_decoding_options(parser)
    run_job(partial(_calibrate, parser.parse_args()))


if __name__ == "__main__":
    main()
