"""The weights of language models, found on development utterances: `python -m jobs.language_model tune …`."""

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jasper_ray.config.data import DatasetConfig
from jasper_ray.config.decoding import DecodingConfig
from jasper_ray.config.files import dump_config
from jasper_ray.decoding.decoder import BeamSearch, GreedyDecoder
from jasper_ray.decoding.rescoring import NeuralLanguageModel
from jasper_ray.decoding.tuning import (
    Point,
    best_point,
    best_rescoring,
    measure_rescoring,
    measure_weights,
    oracle_errors,
)
from jasper_ray.errors import ConfigError
from jasper_ray.model.bundle import Bundle, load_bundle
from jasper_ray.observe.heat_map import plot_heat_map
from jasper_ray.storage import object_store
from jasper_ray.text.wer import count_errors
from jasper_ray.training.assembly import read_datasets
from jobs.decoding import add_decoding_options, read_decoding
from jobs.entry import console
from jobs.log_probs import compute_log_probs

TUNED_FILE, MAP_FILE, RESCORING_MAP_FILE = "decoding.yaml", "weights.png", "rescoring.png"


def add_tuning_options(parser: argparse.ArgumentParser) -> None:
    """The options of `tune`."""
    parser.add_argument("bundle", help="folder of the bundle, local or s3://")
    parser.add_argument("language_model", metavar="LANGUAGE_MODEL", help="folder of the n-grams")
    parser.add_argument("datasets", nargs="+", metavar="DATASET", help="prepared datasets, read as one")
    parser.add_argument("--output", default="runs/decoding", help="folder of the results (default runs/decoding)")
    parser.add_argument("--device", default="cpu", help="of the models: cpu or cuda (default cpu)")
    parser.add_argument("--lm-weights", type=float, nargs="+", default=[0.25, 0.5, 0.75, 1.0, 1.5, 2.0], metavar="W")
    parser.add_argument("--word-bonuses", type=float, nargs="+", default=[-1.0, 0.0, 1.0, 2.0], metavar="B")
    parser.add_argument(
        "--rescoring", metavar="FOLDER", help="also tune the ranking by this neural model of transformers"
    )
    parser.add_argument(
        "--rescoring-weights", type=float, nargs="+", default=[0.0, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0], metavar="W"
    )
    parser.add_argument(
        "--ngram-shares",
        type=float,
        nargs="+",
        default=[0.0, 0.5, 1.0],
        metavar="S",
        help="with --rescoring: what is left of the n-grams' weight, as shares of lm_weight (default 0 0.5 1)",
    )
    add_decoding_options(parser)


def tune_weights(arguments: argparse.Namespace) -> Mapping[str, Any]:
    """Try all pairs of weights and write the best; with a neural model, then those of the ranking."""
    config = read_decoding(arguments).model_copy(
        update={"method": "beam", "language_model": object_store.absolute(arguments.language_model)}
    )
    if any(arguments.word_bonuses) and not config.lexicon:
        raise ConfigError("--word-bonuses needs a search in a lexicon: give --word-bonuses 0 with lexicon=false")
    manifest = read_datasets([DatasetConfig(path=path) for path in arguments.datasets], key="DATASET")
    bundle = load_bundle(arguments.bundle, device=arguments.device)
    neural = NeuralLanguageModel(arguments.rescoring, device=arguments.device) if arguments.rescoring else None
    started_s = time.monotonic()
    utterances = compute_log_probs(bundle, manifest, device=arguments.device, threads=arguments.processes)
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    search = BeamSearch(
        bundle.alphabet, config.model_copy(update={"rescoring_model": None}), num_processes=arguments.processes
    )
    try:
        points = measure_weights(
            search,
            utterances,
            manifest.texts,
            lm_weights=arguments.lm_weights,
            word_bonuses=arguments.word_bonuses,
            report=_print_point,
        )
        best = best_point(points)
        tuned = config.model_copy(update={"lm_weight": best.lm_weight, "word_bonus": best.word_bonus})
        rescoring: Mapping[str, Any] = {}
        if neural is not None:
            tuned, rescoring = _tune_rescoring(arguments, tuned, search, neural, utterances, manifest.texts)
    finally:
        search.close()
    (output / TUNED_FILE).write_text(dump_config(tuned), encoding="utf-8")
    _draw(
        output / MAP_FILE,
        {(point.lm_weight, point.word_bonus): point.errors.wer for point in points},
        ("lm_weight", "word_bonus"),
    )
    return {
        "decoding": str(output / TUNED_FILE),
        "greedy_wer": _greedy_wer(bundle, utterances, manifest.texts),
        "wer": best.errors.wer,
        "cer": best.errors.cer,
        "lm_weight": best.lm_weight,
        "word_bonus": best.word_bonus,
        "num_utterances": len(manifest),
        "points": [[point.lm_weight, point.word_bonus, point.errors.wer] for point in points],
        **rescoring,
        "seconds": time.monotonic() - started_s,
    }


def _tune_rescoring(
    arguments: argparse.Namespace,
    tuned: DecodingConfig,
    search: BeamSearch,
    neural: NeuralLanguageModel,
    utterances: Sequence[np.ndarray],
    references: Sequence[str],
) -> tuple[DecodingConfig, Mapping[str, Any]]:
    """The config with the best weights of the ranking, and figures."""
    found = search.search(utterances, num_best=tuned.num_best, weights=(tuned.lm_weight, tuned.word_bonus))
    texts = sorted({one.text for hypotheses in found for one in hypotheses})
    console.print(f"the neural model reads {len(texts)} transcripts", highlight=False)
    points = measure_rescoring(
        found,
        dict(zip(texts, neural.log_probs(texts), strict=True)),
        references,
        lm_weight=tuned.lm_weight,
        rescoring_weights=arguments.rescoring_weights,
        rescoring_lm_weights=[share * tuned.lm_weight for share in arguments.ngram_shares],
    )
    best = best_rescoring(points)
    _draw(
        Path(arguments.output) / RESCORING_MAP_FILE,
        {(point.rescoring_weight, point.rescoring_lm_weight): point.errors.wer for point in points},
        ("rescoring_weight", "rescoring_lm_weight"),
    )
    update = {
        "rescoring_model": object_store.absolute(arguments.rescoring),
        "rescoring_weight": best.rescoring_weight,
        "rescoring_lm_weight": best.rescoring_lm_weight,
    }
    oracle = oracle_errors(found, references)
    return tuned.model_copy(update=update), {
        "rescored_wer": best.errors.wer,
        "rescored_cer": best.errors.cer,
        "rescoring_weight": best.rescoring_weight,
        "rescoring_lm_weight": best.rescoring_lm_weight,
        "best_choice_wer": oracle.wer,
        "rescoring_points": [[point.rescoring_weight, point.rescoring_lm_weight, point.errors.wer] for point in points],
    }


def _greedy_wer(bundle: Bundle, utterances: Sequence[np.ndarray], references: Sequence[str]) -> float:
    decoder = GreedyDecoder(bundle.alphabet)
    texts = [
        decoder.texts(torch.from_numpy(one)[None], torch.tensor([len(one)]))[0] if len(one) else ""
        for one in utterances
    ]
    return count_errors(references, texts).wer


def _print_point(point: Point) -> None:
    console.print(
        f"lm_weight {point.lm_weight:g}, word_bonus {point.word_bonus:g}: WER {point.errors.wer:.2%}", highlight=False
    )


def _draw(png: Path, rates: Mapping[tuple[float, float], float], labels: tuple[str, str]) -> None:
    columns, rows = sorted({column for column, _ in rates}), sorted({row for _, row in rates})
    plot_heat_map(
        png,
        [[100 * rates[column, row] for column in columns] for row in rows],
        columns=columns,
        rows=rows,
        column_label=labels[0],
        row_label=labels[1],
        title="word error rate (%)",
    )
