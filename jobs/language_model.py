"""Language models for beam search: `python -m jobs.language_model build|neural|import|tune …`."""

import argparse
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from jasper_ray.config.data import DatasetConfig
from jasper_ray.config.files import load_config
from jasper_ray.config.knobs import describe_knobs
from jasper_ray.config.speech import TextConfig
from jasper_ray.decoding.language_model import build_language_model, import_language_model
from jasper_ray.decoding.neural import NeuralConfig, train_neural_model
from jasper_ray.decoding.published import NAMES as PUBLISHED
from jasper_ray.decoding.published import fetch_published, is_published
from jasper_ray.model.bundle import read_bundle_config
from jasper_ray.storage import object_store
from jasper_ray.text.normalize import normalize_text
from jasper_ray.text.overlap import HeldOut
from jasper_ray.training.assembly import read_datasets
from jobs.decoding_weights import add_tuning_options, tune_weights
from jobs.downloading import progress_bar
from jobs.entry import console, run_job


@dataclass
class _Text:
    """Lines of text files, normalised as transcripts are, and what was left out of them."""

    alphabet: str
    paths: Sequence[str]
    held_out: HeldOut
    unwritable: int = 0
    given_away: int = 0

    def lines(self) -> Iterator[str]:
        letters = set(self.alphabet)
        for path in self.paths:
            for line in object_store.read_bytes(path).decode("utf-8").splitlines():
                normalized = normalize_text(line, self.alphabet)
                if not letters.issuperset(normalized):
                    self.unwritable += 1
                elif self.held_out.is_in(normalized):
                    self.given_away += 1
                else:
                    yield normalized

    def report(self) -> dict[str, int]:
        if self.unwritable:
            console.print(
                f"{self.unwritable} lines were left out: they have characters outside {self.alphabet!r}", markup=False
            )
        return {"left_out_lines": self.unwritable, "lines_of_held_out_transcripts": self.given_away}


def _text(arguments: argparse.Namespace) -> _Text:
    alphabet = (read_bundle_config(arguments.bundle).text if arguments.bundle else TextConfig()).alphabet
    datasets = [DatasetConfig(path=path) for path in arguments.keep_out]
    transcripts = read_datasets(datasets, key="--keep-out").texts if datasets else []
    return _Text(alphabet, arguments.texts, HeldOut(transcripts))


def _build(arguments: argparse.Namespace) -> Mapping[str, Any]:
    text, started_s = _text(arguments), time.monotonic()
    config = build_language_model(
        text.lines(),
        arguments.output,
        order=arguments.order,
        unit=arguments.unit,
        prune=arguments.prune,
        min_count=arguments.min_count,
        source=", ".join(arguments.texts),
    )
    figures = {"language_model": arguments.output, **config.model_dump(mode="json"), **text.report()}
    return {**figures, "seconds": time.monotonic() - started_s}


def _neural(arguments: argparse.Namespace) -> Mapping[str, Any]:
    text, started_s = _text(arguments), time.monotonic()
    config = load_config(NeuralConfig, None, arguments.knobs, environ=os.environ)
    torch.set_num_threads(arguments.threads)

    def report(step: int, num_steps: int, loss: float) -> None:
        console.print(f"step {step} of {num_steps}: loss {loss:.3f}", highlight=False)

    figures = train_neural_model(list(text.lines()), arguments.output, config, device=arguments.device, report=report)
    return {
        "language_model": arguments.output,
        **asdict(figures),
        **text.report(),
        "seconds": time.monotonic() - started_s,
    }


def _import(arguments: argparse.Namespace) -> Mapping[str, Any]:
    words = object_store.read_bytes(arguments.words).decode("utf-8").split() if arguments.words else None
    file = Path(arguments.file)
    if is_published(arguments.file):
        with progress_bar(console) as progress:
            folder = Path(arguments.download_dir).expanduser()
            file = fetch_published(arguments.file, folder, progress=progress, mirror=arguments.mirror)
    config = import_language_model(file, words, arguments.output, unit=arguments.unit, source=arguments.file)
    return {"language_model": arguments.output, **config.model_dump(mode="json")}


def _add_text_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="text files, a sentence a line, local or s3://")
    parser.add_argument("--bundle", help="take the alphabet of this bundle (default: the English one)")
    parser.add_argument(
        "--keep-out",
        nargs="+",
        default=[],
        metavar="DATASET",
        help="leave out lines that share six words in a row with a transcript of these datasets, and count them",
    )


def main() -> None:
    """Make language models for beam search and find how much they should count."""
    parser = argparse.ArgumentParser(prog="python -m jobs.language_model", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="n-grams from text")
    build.add_argument("output", metavar="OUTPUT", help="folder of the language model, local or s3://")
    _add_text_options(build)
    build.add_argument("--order", type=int, default=4, help="longest n-gram, 1 to 6 (default 4)")
    build.add_argument("--unit", choices=["word", "character"], default="word", help="of n-grams (default word)")
    build.add_argument(
        "--prune", type=int, nargs="*", default=[], metavar="N", help="drop n-grams seen N times or less, per length"
    )
    build.add_argument("--min-count", type=int, default=1, help="leave out words seen less often (default 1)")
    build.set_defaults(work=_build)
    neural = commands.add_parser(
        "neural",
        help="a small GPT from text, to rank transcripts anew",
        epilog="knobs:\n\n" + describe_knobs(NeuralConfig),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    neural.add_argument("output", metavar="OUTPUT", help="folder of the model, local or s3://")
    _add_text_options(neural)
    neural.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    neural.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="torch threads (default: all cores)")
    neural.add_argument("--knobs", nargs="*", default=[], metavar="KEY=VALUE", help="e.g. layers=2 epochs=5")
    neural.set_defaults(work=_neural)
    importer = commands.add_parser("import", help="an ARPA file or KenLM binary of other tools, or LibriSpeech's")
    importer.add_argument(
        "file",
        metavar="FILE",
        help=f"ARPA or KenLM binary; librispeech:NAME is fetched, NAME one of {', '.join(PUBLISHED)}",
    )
    importer.add_argument("output", metavar="OUTPUT", help="folder of the language model, local or s3://")
    importer.add_argument("--words", metavar="FILE", help="lexicon, a word a line (default: words of the ARPA file)")
    importer.add_argument("--unit", choices=["word", "character"], default="word", help="of n-grams (default word)")
    importer.add_argument(
        "--download-dir", default="~/.cache/jasper_ray/downloads", metavar="FOLDER", help="default %(default)s"
    )
    importer.add_argument("--mirror", default="", metavar="URL", help="folder of LibriSpeech's models to try first")
    importer.set_defaults(work=_import)
    tune = commands.add_parser("tune", help="find the weights of language models on development utterances")
    add_tuning_options(tune)
    tune.set_defaults(work=tune_weights)
    arguments = parser.parse_args()
    run_job(partial(arguments.work, arguments))


if __name__ == "__main__":
    main()
