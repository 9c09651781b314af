"""Word error rate of a bundle on prepared datasets: `python -m jobs.evaluate BUNDLE DATASET [DATASET ...]`."""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from jasper_ray.config.data import DatasetConfig, LoaderConfig
from jasper_ray.config.decoding import DecodingConfig
from jasper_ray.data.manifest import Manifest
from jasper_ray.data.plan import plan_evaluation
from jasper_ray.decoding.alignment import WordSpan
from jasper_ray.decoding.confidence import read_calibrations
from jasper_ray.decoding.decoder import build_decoder
from jasper_ray.decoding.words import WordKeeper
from jasper_ray.errors import ConfigError
from jasper_ray.model.bundle import CONFIG_FILE, WEIGHTS_FILE, load_bundle
from jasper_ray.observe.evaluation_report import summary
from jasper_ray.storage import object_store
from jasper_ray.training.assembly import read_datasets
from jasper_ray.training.evaluate import Evaluation
from jasper_ray.training.evaluation_pieces import EvaluationWork, alone, cut_by_shard, evaluate_bundle, joined
from jasper_ray.training.latencies import latency_figures
from jobs.decoding import add_decoding_options, read_decoding
from jobs.entry import run_job
from jobs.pieces import add_piece_options, in_pieces, num_threads, run_pieces, state_of
from jobs.reporting import REPORT_PAGE, write_report


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
    parser.add_argument(
        "--batch-seconds", type=float, default=160.0, help="padded seconds of audio in a batch (default 160)"
    )
    parser.add_argument("--steps", type=int, help="evaluate only the first batches, which hold the longest utterances")
    parser.add_argument(
        "--warmup-steps", type=int, default=0, help="leave the first batches out of the latencies (default 0)"
    )
    parser.add_argument("--predictions", metavar="FILE", help="write id, reference and hypothesis as JSON lines")
    parser.add_argument(
        "--log-probs", metavar="FOLDER", help="write the model's log-probabilities as Parquet, a file per piece"
    )
    parser.add_argument("--report", metavar="FOLDER", help="write report.html and report.json: what went wrong, where")
    parser.add_argument(
        "--compare", metavar="FILE", help="with --report: --predictions of another bundle, to tell which is better"
    )
    parser.add_argument("--audio", action="store_true", help="with --report: the worst utterances can be heard in it")
    parser.add_argument(
        "--piece-seconds", type=float, default=600.0, help="seconds of audio in a piece, of one shard (default 600)"
    )
    add_piece_options(parser, threads="threads of the loader (default 2)")
    add_decoding_options(parser)
    arguments = parser.parse_args()
    run_job(partial(_evaluate, arguments))


def _evaluate(arguments: argparse.Namespace) -> Mapping[str, Any]:
    if (arguments.compare or arguments.audio) and not arguments.report:
        raise ConfigError("--compare and --audio need --report FOLDER: they are parts of the report")
    if arguments.warmup_steps < 0:
        raise ConfigError(f"--warmup-steps must be 0 or more, got {arguments.warmup_steps}")
    started_s = time.monotonic()
    paths: Sequence[str] = arguments.datasets
    manifest = read_datasets([DatasetConfig(path=path) for path in paths], key="DATASET")
    if arguments.steps is not None:
        manifest = first_batches(manifest, arguments.steps, seconds_per_batch=arguments.batch_seconds)
    decoding = read_decoding(arguments)
    measure = _evaluate_pieces if in_pieces(arguments) or arguments.log_probs else _evaluate_here
    evaluation, words = measure(arguments, manifest, decoding)
    figures: dict[str, Any] = {
        "bundle": arguments.bundle,
        **evaluation.figures(),
        "latency_s": latency_figures(evaluation.batch_seconds[arguments.warmup_steps :]),
    }
    if arguments.report:
        report = write_report(
            arguments.report,
            manifest=manifest,
            transcripts=evaluation.transcripts,
            words=dict(zip(evaluation.transcripts, words, strict=True)),
            calibration=read_calibrations(arguments.bundle).get(decoding.method),
            title=f"{arguments.bundle} on {', '.join(paths)}",
            compare=arguments.compare,
            with_audio=arguments.audio,
        )
        figures |= {"report": object_store.join(arguments.report, REPORT_PAGE), **summary(report)}
    if arguments.predictions:
        write_predictions(arguments.predictions, manifest, evaluation)
    return {**figures, "seconds": time.monotonic() - started_s}


def first_batches(manifest: Manifest, steps: int, *, seconds_per_batch: float) -> Manifest:
    """The utterances of the first batches that an evaluation makes of a manifest, in its order.

    Raises:
        ConfigError: `steps` is below 1.
    """
    if steps < 1:
        raise ConfigError(f"--steps must be at least 1, got {steps}")
    batches = plan_evaluation(manifest.durations_s, seconds_per_batch=seconds_per_batch)
    return manifest.select(np.sort(np.concatenate(batches[:steps])))


def _evaluate_here(
    arguments: argparse.Namespace, manifest: Manifest, decoding: DecodingConfig
) -> tuple[Evaluation, Sequence[Sequence[WordSpan]]]:
    """The evaluation, and the words of its transcripts if there is to be a report."""
    bundle = load_bundle(arguments.bundle, device=arguments.device, plain_weights=arguments.plain_weights)
    frame_s = bundle.config.features.hop_s * bundle.config.model.total_stride
    decoder = build_decoder(decoding, bundle.alphabet, num_processes=arguments.processes)
    keeper = WordKeeper(decoder, bundle.alphabet, frame_s=frame_s)
    try:
        evaluation = evaluate_bundle(
            bundle,
            manifest,
            loader=LoaderConfig(backend=arguments.loader, num_threads=num_threads(arguments, here=2)),
            device=torch.device(arguments.device),
            seconds_per_batch=arguments.batch_seconds,
            decoder=keeper if arguments.report else decoder,
        )
    finally:
        decoder.close()
    return evaluation, keeper.words


def _evaluate_pieces(
    arguments: argparse.Namespace, manifest: Manifest, decoding: DecodingConfig
) -> tuple[Evaluation, Sequence[Sequence[WordSpan]]]:
    """The same by pieces of shards, on all nodes or here."""
    work = EvaluationWork(
        bundle=object_store.absolute(arguments.bundle),
        loader=LoaderConfig(backend=arguments.loader, num_threads=num_threads(arguments, here=2)),
        decoding=decoding,
        device=arguments.device,
        plain_weights=arguments.plain_weights,
        seconds_per_batch=arguments.batch_seconds,
        with_words=bool(arguments.report),
        log_probs=object_store.absolute(arguments.log_probs) if arguments.log_probs else None,
    )
    rows = cut_by_shard(manifest, seconds=arguments.piece_seconds)
    job = {
        "job": "evaluate",
        "bundle": state_of(arguments.bundle, CONFIG_FILE, WEIGHTS_FILE),
        "plain_weights": arguments.plain_weights,
        "dataset": manifest.fingerprint,
        "loader": arguments.loader,
        "piece_seconds": arguments.piece_seconds,
        "decoding": decoding.model_dump(),
        "with_words": work.with_words,
        "log_probs": work.log_probs,
    }
    pieces = [alone(manifest, part) for part in rows]
    results = run_pieces(arguments, work, pieces, job=job, name="evaluate-piece")
    return joined(rows, results)


if __name__ == "__main__":
    main()
