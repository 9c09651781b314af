"""Language models for beam search: `python -m jobs.language_model build|import|tune …`."""

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jasper_ray.config.data import DatasetConfig
from jasper_ray.config.files import dump_config
from jasper_ray.config.speech import TextConfig
from jasper_ray.decoding.decoder import BeamSearch, GreedyDecoder
from jasper_ray.decoding.language_model import build_language_model, import_language_model
from jasper_ray.decoding.tuning import Point, best_point, measure_weights
from jasper_ray.errors import ConfigError
from jasper_ray.model.bundle import Bundle, load_bundle, read_bundle_config
from jasper_ray.observe.heat_map import plot_heat_map
from jasper_ray.storage import object_store
from jasper_ray.text.normalize import normalize_text
from jasper_ray.text.wer import count_errors
from jasper_ray.training.assembly import read_datasets
from jobs.decoding import add_decoding_options, read_decoding
from jobs.entry import console, run_job
from jobs.log_probs import compute_log_probs

TUNED_FILE, MAP_FILE = "decoding.yaml", "weights.png"


def _build(arguments: argparse.Namespace) -> Mapping[str, Any]:
    text = read_bundle_config(arguments.bundle).text if arguments.bundle else TextConfig()
    letters = set(text.alphabet)
    left_out = 0

    def usable_lines() -> Iterator[str]:
        nonlocal left_out
        for path in arguments.texts:
            for line in object_store.read_bytes(path).decode("utf-8").splitlines():
                normalized = normalize_text(line, text.alphabet)
                if letters.issuperset(normalized):
                    yield normalized
                else:
                    left_out += 1

    started_s = time.monotonic()
    config = build_language_model(
        usable_lines(),
        arguments.output,
        order=arguments.order,
        unit=arguments.unit,
        prune=arguments.prune,
        min_count=arguments.min_count,
        source=", ".join(arguments.texts),
    )
    if left_out:
        console.print(f"{left_out} lines were left out: they have characters outside {text.alphabet!r}", markup=False)
    figures = {"language_model": arguments.output, **config.model_dump(mode="json"), "left_out_lines": left_out}
    return {**figures, "seconds": time.monotonic() - started_s}


def _import(arguments: argparse.Namespace) -> Mapping[str, Any]:
    words = object_store.read_bytes(arguments.words).decode("utf-8").split() if arguments.words else None
    config = import_language_model(
        Path(arguments.file), words, arguments.output, unit=arguments.unit, source=arguments.file
    )
    return {"language_model": arguments.output, **config.model_dump(mode="json")}


def _tune(arguments: argparse.Namespace) -> Mapping[str, Any]:
    config = read_decoding(arguments).model_copy(
        update={"method": "beam", "language_model": object_store.absolute(arguments.language_model)}
    )
    if any(arguments.word_bonuses) and not config.lexicon:
        raise ConfigError("--word-bonuses needs a search in a lexicon: give --word-bonuses 0 with lexicon=false")
    manifest = read_datasets([DatasetConfig(path=path) for path in arguments.datasets], key="DATASET")
    bundle = load_bundle(arguments.bundle, device=arguments.device)
    started_s = time.monotonic()
    utterances = compute_log_probs(bundle, manifest, device=arguments.device, threads=arguments.processes)
    greedy = _greedy_wer(bundle, utterances, manifest.texts)
    search = BeamSearch(bundle.alphabet, config, num_processes=arguments.processes)
    try:
        points = measure_weights(
            search,
            utterances,
            manifest.texts,
            lm_weights=arguments.lm_weights,
            word_bonuses=arguments.word_bonuses,
            report=_print_point,
        )
    finally:
        search.close()
    best = best_point(points)
    tuned = config.model_copy(update={"lm_weight": best.lm_weight, "word_bonus": best.word_bonus})
    output = Path(arguments.output)
    output.mkdir(parents=True, exist_ok=True)
    (output / TUNED_FILE).write_text(dump_config(tuned), encoding="utf-8")
    _draw(points, output / MAP_FILE)
    return {
        "decoding": str(output / TUNED_FILE),
        "greedy_wer": greedy,
        "wer": best.errors.wer,
        "cer": best.errors.cer,
        "lm_weight": best.lm_weight,
        "word_bonus": best.word_bonus,
        "num_utterances": len(manifest),
        "points": [[point.lm_weight, point.word_bonus, point.errors.wer] for point in points],
        "seconds": time.monotonic() - started_s,
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


def _draw(points: Sequence[Point], png: Path) -> None:
    weights = sorted({point.lm_weight for point in points})
    bonuses = sorted({point.word_bonus for point in points})
    rates = {(point.lm_weight, point.word_bonus): 100 * point.errors.wer for point in points}
    plot_heat_map(
        png,
        [[rates[weight, bonus] for weight in weights] for bonus in bonuses],
        columns=weights,
        rows=bonuses,
        column_label="lm_weight",
        row_label="word_bonus",
        title="word error rate (%)",
    )


def main() -> None:
    """Make language models for beam search and find how much they should count."""
    parser = argparse.ArgumentParser(prog="python -m jobs.language_model", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="n-grams from text")
    build.add_argument("output", metavar="OUTPUT", help="folder of the language model, local or s3://")
    build.add_argument("texts", nargs="+", metavar="TEXT", help="text files, a sentence a line, local or s3://")
    build.add_argument("--order", type=int, default=4, help="longest n-gram, 1 to 6 (default 4)")
    build.add_argument("--unit", choices=["word", "character"], default="word", help="of n-grams (default word)")
    build.add_argument(
        "--prune", type=int, nargs="*", default=[], metavar="N", help="drop n-grams seen N times or less, per length"
    )
    build.add_argument("--min-count", type=int, default=1, help="leave out words seen less often (default 1)")
    build.add_argument("--bundle", help="take the alphabet of this bundle (default: the English one)")
    build.set_defaults(work=_build)
    importer = commands.add_parser("import", help="an ARPA file or KenLM binary of other tools")
    importer.add_argument("file", metavar="FILE", help="ARPA or KenLM binary")
    importer.add_argument("output", metavar="OUTPUT", help="folder of the language model, local or s3://")
    importer.add_argument("--words", metavar="FILE", help="lexicon, a word a line (default: words of the ARPA file)")
    importer.add_argument("--unit", choices=["word", "character"], default="word", help="of n-grams (default word)")
    importer.set_defaults(work=_import)
    tune = commands.add_parser("tune", help="find lm_weight and word_bonus on development utterances")
    tune.add_argument("bundle", help="folder of the bundle, local or s3://")
    tune.add_argument("language_model", metavar="LANGUAGE_MODEL", help="its folder")
    tune.add_argument("datasets", nargs="+", metavar="DATASET", help="prepared datasets, read as one")
    tune.add_argument("--output", default="runs/decoding", help="folder of the results (default runs/decoding)")
    tune.add_argument("--device", default="cpu", help="of the acoustic model: cpu or cuda (default cpu)")
    tune.add_argument("--lm-weights", type=float, nargs="+", default=[0.25, 0.5, 0.75, 1.0, 1.5, 2.0], metavar="W")
    tune.add_argument("--word-bonuses", type=float, nargs="+", default=[-1.0, 0.0, 1.0, 2.0], metavar="B")
    add_decoding_options(tune)
    tune.set_defaults(work=_tune)
    arguments = parser.parse_args()
    run_job(partial(arguments.work, arguments))


if __name__ == "__main__":
    main()
