"""The whole main job on the embedded corpus: `make demo`, or `python -m jobs.demo`.

Corpus to shards, two Ray Train workers, evaluation on voices that training never heard, a bundle, Ray Serve over HTTP.
Everything lies in `runs/demo`; a second run takes what is finished from there.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from rich.table import Table

from jasper_ray.cluster.trainer import prepare_missing_datasets, with_absolute_paths
from jasper_ray.config.data import LoaderConfig
from jasper_ray.config.files import dump_config, load_run_config
from jasper_ray.config.schema import RunConfig
from jasper_ray.data.manifest import Manifest, read_manifest
from jasper_ray.data.shards import ShardReader
from jasper_ray.errors import JasperRayError, StorageError
from jasper_ray.model.bundle import load_bundle
from jasper_ray.observe.curves import plot_curves
from jasper_ray.storage import object_store
from jasper_ray.training.evaluation_pieces import evaluate_bundle
from jobs.entry import console, run_job
from jobs.serve import serving
from jobs.train import SUMMARY_FILE, train
from serve.app import ServeArgs

NUM_REQUESTS = 12


@dataclass
class Stages:
    """Runs the stages one after another and keeps their seconds and results for the closing table."""

    rows: list[tuple[str, float, str]] = field(default_factory=list)

    def run(self, name: str, work: Callable[[], tuple[Any, str]]) -> Any:
        """Run one stage; `work` gives its value and a line that says what came out."""
        console.rule(f"[bold]{name}")
        started_s = time.monotonic()
        value, outcome = work()
        self.rows.append((name, time.monotonic() - started_s, outcome))
        console.print(f"{name}: {outcome} ({self.rows[-1][1]:.1f} s)", markup=False, highlight=False)
        return value


def demo(config: RunConfig) -> Mapping[str, Any]:
    """Run all stages and give the figures."""
    stages = Stages()
    manifest = stages.run("corpus and shards", lambda: _corpus(config))
    trained = stages.run("training", lambda: _train(config))
    figures = stages.run("evaluation", lambda: _evaluate(trained["bundle"], manifest))
    pairs = stages.run("serving", lambda: _serve(trained["bundle"], manifest))
    _print_results(stages, trained, figures, pairs, config)
    correct = sum(reference == transcript for reference, transcript in pairs)
    return {
        "stages": {name: round(seconds, 1) for name, seconds, _ in stages.rows},
        "seconds": sum(seconds for _, seconds, _ in stages.rows),
        "num_parameters": trained["num_parameters"],
        "wer": figures["wer"],
        "evaluation_utterances": figures["num_utterances"],
        "http_requests": len(pairs),
        "http_correct": correct,
        "output": config.output,
    }


def _corpus(config: RunConfig) -> tuple[Manifest, str]:
    prepare_missing_datasets(config)
    train, evaluation = (read_manifest(dataset[0].path) for dataset in (config.data.train, config.data.evaluation))
    shared = set(train.speakers) & set(evaluation.speakers)
    if shared:
        raise JasperRayError(f"{len(shared)} voices are both in training and in evaluation, first {min(shared)!r}")
    return evaluation, (
        f"{len(train)} utterances by {len(set(train.speakers))} voices to train on, "
        f"{len(evaluation)} by {len(set(evaluation.speakers))} others to be judged by"
    )


def _train(config: RunConfig) -> tuple[Mapping[str, Any], str]:
    summary = _finished_run(config)
    if summary is not None:
        return summary, "finished in an earlier run"
    figures = train(config)
    plot_curves(config.output, Path(config.output) / "curves.png", title="make demo")
    return (
        figures,
        f"{figures['num_parameters']:,} parameters, {figures['global_step']} steps, last WER {figures['wer']:.2%}",
    )


def _finished_run(config: RunConfig) -> Mapping[str, Any] | None:
    """The figures of a run with the very same config that has come to its end."""
    try:
        saved = object_store.read_bytes(object_store.join(config.output, "config.yaml")).decode()
        summary: dict[str, Any] = json.loads(object_store.read_bytes(object_store.join(config.output, SUMMARY_FILE)))
    except StorageError:
        return None
    return summary if saved == dump_config(with_absolute_paths(config)) and summary.get("finished") else None


def _evaluate(bundle_uri: str, manifest: Manifest) -> tuple[Mapping[str, Any], str]:
    evaluation = evaluate_bundle(
        load_bundle(bundle_uri),
        manifest,
        loader=LoaderConfig(num_threads=os.cpu_count() or 1),
        device=torch.device("cpu"),
        seconds_per_batch=160.0,
    )
    figures = evaluation.figures()
    return (
        figures,
        f"WER {figures['wer']:.2%} over {figures['num_words']} words of {figures['num_utterances']} utterances",
    )


def _serve(bundle_uri: str, manifest: Manifest) -> tuple[list[tuple[str, str]], str]:
    """Send some of the evaluation files over HTTP, as any client would; returns references and transcripts."""
    pairs = []
    with serving(ServeArgs(bundle=bundle_uri), port=0) as url, httpx.Client(timeout=60) as client:
        for row in np.linspace(0, len(manifest) - 1, NUM_REQUESTS).round():
            utterance = manifest.utterance(int(row))
            audio = bytes(ShardReader(object_store.local_path(utterance.shard)).audio(utterance.row))
            reply = client.post(
                f"{url}/v1/audio/transcriptions",
                files={"file": (f"{utterance.id}.flac", audio, "audio/flac")},
                data={"model": "jasper", "response_format": "json"},
            )
            reply.raise_for_status()
            pairs.append((utterance.text, str(reply.json()["text"])))
    correct = sum(reference == transcript for reference, transcript in pairs)
    return pairs, f"{len(pairs)} transcripts over HTTP, {correct} without a mistake"


def _print_results(
    stages: Stages,
    trained: Mapping[str, Any],
    figures: Mapping[str, Any],
    pairs: list[tuple[str, str]],
    config: RunConfig,
) -> None:
    table = Table(title=f"WER on unseen voices: {figures['wer']:.2%}")
    for name, justify in (("stage", "left"), ("seconds", "right"), ("outcome", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for name, seconds, outcome in stages.rows:
        table.add_row(name, f"{seconds:.1f}", outcome)
    table.add_row(
        "total", f"{sum(seconds for _, seconds, _ in stages.rows):.1f}", f"{trained['num_parameters']:,} parameters"
    )
    console.print(table)
    transcripts = Table("reference", "transcript over HTTP")
    for reference, transcript in pairs:
        transcripts.add_row(reference, transcript if transcript == reference else f"[red]{transcript}[/red]")
    console.print(transcripts)
    console.print(
        f"In {config.output}: data/ (shards), bundle/ (the model), checkpoints/, log.jsonl, curves.png.\n"
        "`make serve` keeps the service up; a second `make demo` takes what is finished from there."
    )


def main() -> None:
    """Run everything the project is for, once, on the embedded corpus."""
    parser = argparse.ArgumentParser(prog="python -m jobs.demo", description=main.__doc__)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="knobs of jobs/configs/demo_cpu.yaml")
    arguments = parser.parse_args()
    path = Path(__file__).parent / "configs" / "demo_cpu.yaml"
    run_job(lambda: demo(load_run_config(path, arguments.overrides)))


if __name__ == "__main__":
    main()
