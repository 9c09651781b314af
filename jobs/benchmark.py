"""Speed on this machine, as ratios of things run in turn in one process: `python -m jobs.benchmark [PART]`.

`loader`: reading, features, positions and waiting, beside other projects where they are installed (`make bench-peers`).
`dataset`: loaders and training steps on a prepared dataset. Without either: both. Needs no Ray.
`train`: steps on utterances of one duration, over batch sizes, devices, precisions; beside NVIDIA's computation.
`inference`: latencies over batch sizes and durations, as NVIDIA's inference_benchmark; beside NVIDIA's computation.
`features`: features and greedy decoding beside NVIDIA's code.
`serve`: what batching and HTTP cost a request, around a model that only waits.
`decoding`: beam search beside greedy decoding, over beam widths. `times`: word times beside the truth.
`report`: how long the report of an evaluation takes and how large it is.
`cost`: what metrics cost a training and a service, in turn with the same without them.
`book`: features, loader, train, inference and serve in small, several times, beside the last book: `make bench`.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from jasper_ray.config.files import load_run_config
from jasper_ray.training.host_memory import keep_freed_memory
from jobs.benchmarks.book import add_book_arguments, measure_book
from jobs.benchmarks.dataset import DatasetBenchmark, measure_dataset
from jobs.benchmarks.decoding import add_decoding_benchmark, measure_decoding
from jobs.benchmarks.evaluation_report import add_report_benchmark, measure_report
from jobs.benchmarks.hearing import measure_features, measure_greedy
from jobs.benchmarks.inference import (
    add_inference_arguments,
    bundle_or_preset,
    inference_benchmark_of,
    measure_inference,
)
from jobs.benchmarks.loader import LoaderBenchmark, measure_loading
from jobs.benchmarks.report import write_report
from jobs.benchmarks.serving import SchedulerBenchmark, measure_scheduler
from jobs.benchmarks.training import TrainingBenchmark, add_arguments, cases_of, measure_training
from jobs.benchmarks.word_times import add_times_benchmark, measure_times
from jobs.entry import console, run_job


def _loader(arguments: argparse.Namespace) -> Mapping[str, Any]:
    benchmark = LoaderBenchmark(
        num_utterances=arguments.utterances,
        feature_utterances=arguments.feature_utterances,
        rounds=arguments.rounds,
        waiting_rounds=min(arguments.rounds, 3),
    )
    figures = measure_loading(benchmark, lambda line: console.print(line, markup=False, highlight=False))
    figures["command"] = " ".join(["python -m jobs.benchmark", *sys.argv[1:]])
    if arguments.write is not None:
        console.print(f"written: {write_report(figures, arguments.write)}", markup=False, highlight=False)
    return figures


def _dataset(arguments: argparse.Namespace) -> Mapping[str, Any]:
    config = load_run_config(arguments.config, [*arguments.overrides, "cluster.num_workers=1"])
    benchmark = DatasetBenchmark(arguments.dataset, arguments.rounds, arguments.steps, arguments.threads)
    return {"config": arguments.config, **measure_dataset(config, benchmark)}


def _train(arguments: argparse.Namespace) -> Mapping[str, Any]:
    cases, device = cases_of(arguments), "cuda" if torch.cuda.is_available() else "cpu"
    about = _about()
    if device == "cpu":
        keep_freed_memory()  # as a worker does
    if arguments.layer or arguments.peers:
        from jobs.benchmarks.yardstick_step import measure_beside_yardstick, measure_layer

        settings = {"rounds": arguments.steps, "threads": arguments.threads, "device": device}
        if arguments.layer:
            return about | measure_layer(*arguments.layer, precisions=arguments.precisions, **settings)
        sizes = [tuple(case for case in cases if case.batch_size == size) for size in arguments.batch_sizes]
        return about | {"beside_yardstick": [measure_beside_yardstick(of_size, **settings) for of_size in sizes]}
    benchmark = TrainingBenchmark(
        cases,
        tuple(arguments.devices),
        arguments.steps,
        arguments.warmup,
        arguments.threads,
        device,
        None if arguments.peak_tflops is None else 1e12 * arguments.peak_tflops,
    )
    say = partial(console.print, markup=False, highlight=False)
    return about | {"steps": measure_training(benchmark, say, arguments.rows)}


def _about() -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "command": " ".join(["python -m jobs.benchmark", *sys.argv[1:]]),
    }


def _inference(arguments: argparse.Namespace) -> Mapping[str, Any]:
    say = partial(console.print, markup=False, highlight=False)
    if arguments.layer:
        from jobs.benchmarks.inference_layer import measure_inference_layer

        settings = {"rounds": arguments.steps, "threads": arguments.threads, "hops": arguments.hops}
        layers = [
            measure_inference_layer(*layer, precisions=arguments.precisions, **settings) for layer in arguments.layer
        ]
        return {**_about(), "layers": layers}
    return {**_about(), **measure_inference(inference_benchmark_of(arguments), say)}


def _features(arguments: argparse.Namespace) -> Mapping[str, Any]:
    torch.set_num_threads(arguments.threads)
    return {**_about(), "features": measure_features(), "greedy": measure_greedy()}


def _serve(arguments: argparse.Namespace) -> Mapping[str, Any]:
    benchmark = SchedulerBenchmark(
        step_ms=arguments.step_ms, concurrency=arguments.concurrency, rounds=arguments.rounds
    )
    if arguments.load:
        from jobs.benchmarks.serving_load import LoadBenchmark, measure_load  # needs Ray

        with _proxy(arguments), bundle_or_preset(arguments.load) as bundle:
            return {"load": measure_load(LoadBenchmark(bundle, overload_s=arguments.overload_s))}
    figures = {"scheduler": measure_scheduler(benchmark)}
    if arguments.http:
        from jobs.benchmarks.serving_http import HttpBenchmark, measure_http  # the only part that needs Ray

        with _proxy(arguments):
            figures["http"] = measure_http(HttpBenchmark(step_ms=arguments.step_ms, rounds=arguments.rounds))
    return figures


def _proxy(arguments: argparse.Namespace) -> AbstractContextManager[None]:
    from jobs.serve import haproxy_in_front  # needs Ray

    return haproxy_in_front() if arguments.haproxy else nullcontext()


def _cost(arguments: argparse.Namespace) -> Mapping[str, Any]:
    from jobs.benchmarks.metrics_cost import measure_metrics_cost  # needs Ray

    return _about() | measure_metrics_cost(arguments.pairs, _say)


def _say(line: str) -> None:
    console.print(line, markup=False, highlight=False)


def _both(loader: argparse.Namespace, dataset: argparse.Namespace) -> Mapping[str, Any]:
    return {"loader": _loader(loader), "dataset": _dataset(dataset)}


def main() -> None:
    """Measure loaders beside those of other projects, and training steps, in turn, in one process."""
    parser = argparse.ArgumentParser(prog="python -m jobs.benchmark", description=main.__doc__)
    parts = parser.add_subparsers(
        dest="part",
        metavar="loader | dataset | train | inference | features | serve | decoding | times | report | cost | book",
        title="parts (default: loader and dataset)",
    )
    loader = parts.add_parser("loader", help="reading, features, positions, waiting; beside other projects")
    loader.add_argument("--utterances", type=_positive, default=2000, help="utterances to read (default 2000)")
    loader.add_argument("--feature-utterances", type=_positive, default=256, help="to make features of (default 256)")
    loader.add_argument("--rounds", type=_positive, default=7, help="rounds after a warm-up (default 7)")
    loader.add_argument("--write", type=Path, metavar="FOLDER", help="also write DATE-loader.json and .md here")
    dataset = parts.add_parser("dataset", help="loaders and training steps on a prepared dataset")
    dataset.add_argument("--dataset", default="runs/demo/data/train", help="prepared dataset (default: the demo's)")
    dataset.add_argument("--config", default="jobs/configs/demo_cpu.yaml", help="model and batching to measure")
    dataset.add_argument("--rounds", type=_positive, default=5, help="rounds over the dataset per loader (default 5)")
    dataset.add_argument("--steps", type=_positive, default=20, help="training steps (default 20)")
    dataset.add_argument("--threads", type=_positive, default=1, help="torch threads (default 1)")
    dataset.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="knobs of the config")
    train = parts.add_parser("train", help="steps on utterances of one duration: batch sizes, devices, precisions")
    add_arguments(train)
    inference = parts.add_parser("inference", help="latencies over batch sizes and durations, beside NVIDIA's code")
    add_inference_arguments(inference)
    hearing = parts.add_parser("features", help="features and greedy decoding, beside NVIDIA's code")
    hearing.add_argument("--threads", type=_positive, default=1, help="torch threads (default 1)")
    served = parts.add_parser("serve", help="what batching costs a request; with --http, Ray Serve too")
    served.add_argument("--http", action="store_true", help="also over HTTP, beside an empty Ray Serve deployment")
    served.add_argument(
        "--load",
        metavar="BUNDLE",
        help="instead: this bundle, or a preset with random weights, under load, overload, a killed replica, an update",
    )
    served.add_argument("--haproxy", action="store_true", help="with HAProxy instead of Ray Serve's own proxy")
    served.add_argument("--overload-s", type=float, default=60.0, help="length of the overload (default 60)")
    served.add_argument("--step-ms", type=float, default=3.0, help="what the stub model takes for a batch (default 3)")
    served.add_argument("--concurrency", type=_positive, default=32, help="requests at a time (default 32)")
    served.add_argument("--rounds", type=_positive, default=5, help="rounds (default 5)")
    add_decoding_benchmark(parts.add_parser("decoding", help="beam search beside greedy decoding, over beam widths"))
    add_times_benchmark(parts.add_parser("times", help="word times beside the truth, on joined words of eSpeak NG"))
    add_report_benchmark(parts.add_parser("report", help="the report of an evaluation: time and size"))
    cost = parts.add_parser("cost", help="what metrics cost a training and a service")
    cost.add_argument("--pairs", type=_positive, default=600, help="of segments with and without (default 600)")
    add_book_arguments(parts.add_parser("book", help="all of it in small, beside the last time: make bench"))
    arguments = parser.parse_args()
    if arguments.part is None:
        run_job(partial(_both, loader.parse_args([]), dataset.parse_args([])))
    else:
        work: dict[str, Callable[[argparse.Namespace], Mapping[str, Any]]] = {
            **{"loader": _loader, "dataset": _dataset, "train": _train},
            **{"inference": _inference, "features": _features, "serve": _serve, "cost": _cost},
            "decoding": partial(measure_decoding, say=_say),
            "times": partial(measure_times, say=_say),
            "report": partial(measure_report, say=_say),
            "book": partial(measure_book, say=_say),
        }
        run_job(partial(work[arguments.part], arguments))


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


if __name__ == "__main__":
    main()
