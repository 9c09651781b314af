"""Word error rate of a bundle on prepared datasets: `python -m jobs.evaluate BUNDLE DATASET [DATASET ...]`."""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from jasper_ray.config.data import DataConfig, DatasetConfig, LoaderConfig
from jasper_ray.data.loaders import make_loader
from jasper_ray.data.manifest import Manifest
from jasper_ray.data.plan import plan_evaluation
from jasper_ray.data.source import UtteranceSource
from jasper_ray.decoding.confidence import read_calibrations
from jasper_ray.decoding.decoder import TextDecoder, build_decoder
from jasper_ray.decoding.words import WordKeeper
from jasper_ray.errors import ConfigError
from jasper_ray.model.bundle import Bundle, load_bundle
from jasper_ray.observe.evaluation_report import summary
from jasper_ray.storage import object_store
from jasper_ray.storage.shard_cache import ShardCache
from jasper_ray.training.assembly import read_datasets
from jasper_ray.training.evaluate import Evaluation, evaluate
from jasper_ray.training.world import World
from jobs.decoding import add_decoding_options, read_decoding
from jobs.entry import run_job
from jobs.reporting import REPORT_PAGE, write_report


def evaluate_bundle(
    bundle: Bundle,
    manifest: Manifest,
    *,
    loader: LoaderConfig,
    device: torch.device,
    seconds_per_batch: float,
    decoder: TextDecoder | None = None,
) -> Evaluation:
    """Decode every utterance of a manifest with a bundle's deployed weights, greedily by default."""
    data = DataConfig()
    cache = ShardCache(Path(data.cache_dir).expanduser(), int(data.cache_max_gb * 1e9))
    source = UtteranceSource(manifest, bundle.alphabet, bundle.config.features, None, 0, cache)
    batches = plan_evaluation(manifest.durations_s, seconds_per_batch=seconds_per_batch)
    features = make_loader(bundle.config.features, loader)
    try:
        return evaluate(
            bundle.model,
            features.load(source.batches(batches)),
            references=manifest.texts,
            alphabet=bundle.alphabet,
            world=World(device=device),
            decoder=decoder,
        )
    finally:
        features.close()


def write_predictions(path: str, manifest: Manifest, evaluation: Evaluation) -> None:
    """One JSON object a line: id, reference, hypothesis; in the order of the manifest."""
    rows = [
        {"id": manifest.ids[row], "reference": manifest.texts[row], "hypothesis": evaluation.transcripts[row]}
        for row in sorted(evaluation.transcripts)
    ]
    object_store.write_bytes(path, "".join(json.dumps(row) + "\n" for row in rows).encode())


def main() -> None:
    """Measure the word error rate of a bundle."""
    parser = argparse.ArgumentParser(prog="python -m jobs.evaluate", description=main.__doc__)
    parser.add_argument("bundle", help="folder of the bundle, local or s3://")
    parser.add_argument("datasets", nargs="+", metavar="DATASET", help="prepared datasets, read as one")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--plain-weights", action="store_true", help="weights without averaging")
    parser.add_argument("--loader", choices=["torch", "dali"], default="torch", help="who computes features")
    parser.add_argument("--threads", type=int, default=2, help="threads of the loader (default 2)")
    parser.add_argument(
        "--batch-seconds", type=float, default=160.0, help="padded seconds of audio in a batch (default 160)"
    )
    parser.add_argument("--predictions", metavar="FILE", help="write id, reference and hypothesis as JSON lines")
    parser.add_argument("--report", metavar="FOLDER", help="write report.html and report.json: what went wrong, where")
    parser.add_argument(
        "--compare", metavar="FILE", help="with --report: --predictions of another bundle, to tell which is better"
    )
    parser.add_argument("--audio", action="store_true", help="with --report: the worst utterances can be heard in it")
    add_decoding_options(parser)
    arguments = parser.parse_args()
    run_job(partial(_evaluate, arguments))


def _evaluate(arguments: argparse.Namespace) -> Mapping[str, Any]:
    if (arguments.compare or arguments.audio) and not arguments.report:
        raise ConfigError("--compare and --audio need --report FOLDER: they are parts of the report")
    started_s = time.monotonic()
    paths: Sequence[str] = arguments.datasets
    manifest = read_datasets([DatasetConfig(path=path) for path in paths], key="DATASET")
    bundle = load_bundle(arguments.bundle, device=arguments.device, plain_weights=arguments.plain_weights)
    decoding = read_decoding(arguments)
    frame_s = bundle.config.features.hop_s * bundle.config.model.total_stride
    decoder: TextDecoder = build_decoder(decoding, bundle.alphabet, num_processes=arguments.processes)
    keeper = WordKeeper(decoder, bundle.alphabet, frame_s=frame_s)
    try:
        evaluation = evaluate_bundle(
            bundle,
            manifest,
            loader=LoaderConfig(backend=arguments.loader, num_threads=arguments.threads),
            device=torch.device(arguments.device),
            seconds_per_batch=arguments.batch_seconds,
            decoder=keeper if arguments.report else decoder,
        )
    finally:
        decoder.close()
    figures: dict[str, Any] = {"bundle": arguments.bundle, **evaluation.figures()}
    if arguments.report:
        report = write_report(
            arguments.report,
            manifest=manifest,
            transcripts=evaluation.transcripts,
            words=dict(zip(evaluation.transcripts, keeper.words, strict=True)),
            calibration=read_calibrations(arguments.bundle).get(decoding.method),
            title=f"{arguments.bundle} on {', '.join(paths)}",
            compare=arguments.compare,
            with_audio=arguments.audio,
        )
        figures |= {"report": object_store.join(arguments.report, REPORT_PAGE), **summary(report)}
    if arguments.predictions:
        write_predictions(arguments.predictions, manifest, evaluation)
    return {**figures, "seconds": time.monotonic() - started_s}


if __name__ == "__main__":
    main()
