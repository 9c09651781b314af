"""One pass of the benchmark book: every part once, small, in turn with what it is beside.

`python -m jobs.benchmarks.book_pass FILE` writes a list of figures as JSON; `jobs.benchmark book` starts it, in a
process of its own for each pass.
"""

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from jasper_ray.config.model import ModelConfig
from jasper_ray.config.speech import AugmentConfig, FeatureConfig, TextConfig
from jasper_ray.data.source import EncodedUtterance
from jasper_ray.model.bundle import Bundle, BundleConfig, build_model
from jasper_ray.text.alphabet import Alphabet
from jobs.benchmarks import hearing
from jobs.benchmarks.corpus import BenchmarkCorpus, make_corpus
from jobs.benchmarks.features import BATCH, DALI, FOLDED, NVIDIA, TORCH, feature_contenders, speed_augment
from jobs.benchmarks.inference import InferenceBenchmark, measure_inference
from jobs.benchmarks.loader import OurSources
from jobs.benchmarks.reading import SHARD_READER, SOURCE, every_line, reading_contenders
from jobs.benchmarks.serving import SchedulerBenchmark, measure_scheduler
from jobs.benchmarks.timing import Work, rates, ratio, run_in_turn
from jobs.benchmarks.training import Case
from jobs.benchmarks.yardstick_step import YARDSTICK, measure_beside_yardstick

FILES = "individual files"
UTTERANCES, EPOCHS = 128, 8
"""Of the corpus, and how often a round reads it: one epoch would be over in a millisecond."""
MODEL = ModelConfig(
    preset=None,
    blocks=tuple(
        block.model_copy(update={"repeat": min(block.repeat, 2)})
        for block in ModelConfig(preset="jasper10x5dr").resolved_blocks[:5]
    ),
)
"""The first five blocks of Jasper 10x5 with at most two sub-blocks each."""
MODEL_NAME = "first five blocks of Jasper"


@dataclass(frozen=True)
class Figure:
    """One thing beside another, and how fast it was by itself."""

    part: str
    what: str
    over: str
    """What it is beside."""
    ratio: float
    """How many times faster than that; median of the rounds' own ratios."""
    rate: float
    """By itself, median of the rounds."""
    unit: str
    """Of the rate."""

    @property
    def name(self) -> str:
        """As comparisons name it."""
        return f"{self.part}: {self.what} / {self.over}"


def features_part() -> Iterator[Figure]:
    """Waveforms to features, labels to text."""
    made, greedy = hearing.measure_features(), hearing.measure_greedy()
    rate, unit = made["audio_s_per_cpu_s"][hearing.OURS], "s of audio per CPU-s"
    yield Figure("features", "log-mel features", "NVIDIA's computation", made["faster"], rate, unit)
    name = f"{hearing.OURS}, after argmax"
    batches_per_s = 1e3 / greedy["cpu_ms"][name]
    unit = f"batches of {greedy['utterances']} x {greedy['frames']} frames per CPU-s"
    yield Figure("features", "greedy decoding", "NVIDIA's code", greedy["faster_collapse"], batches_per_s, unit)


def loader_part() -> Iterator[Figure]:
    """Reading, and bytes to features under speed perturbation."""
    with tempfile.TemporaryDirectory(prefix="jasper-book-") as folder:
        corpus = make_corpus(Path(folder) / "corpus", UTTERANCES)
        ours = OurSources(corpus, Path(folder) / "cache")
        yield from _reading(corpus, ours)
        yield from _loading(corpus, ours)


def _reading(corpus: BenchmarkCorpus, ours: OurSources) -> Iterator[Figure]:
    sources = ours.source(speed_augment()), ours.source(None)
    contenders = reading_contenders(corpus, [], *sources, ours.plan, every_line)
    wanted = {name: partial(_epochs, contenders[name]) for name in (SHARD_READER, SOURCE, FILES)}
    runs = run_in_turn(wanted, rounds=7)
    for name in (SHARD_READER, SOURCE):
        yield _figure("loader", f"reading by {name.split()[1]}", FILES, runs, name, FILES, "utterances per CPU-s")


def _epochs(work: Work, number: int) -> float:
    return sum(work(EPOCHS * number + epoch) for epoch in range(EPOCHS))


def _loading(corpus: BenchmarkCorpus, ours: OurSources) -> Iterator[Figure]:
    rows = list(range(BATCH))

    def microbatches(augment: AugmentConfig, epoch: int) -> Iterator[list[EncodedUtterance]]:
        return ours.microbatches(rows, augment, epoch)

    runs = run_in_turn(feature_contenders(corpus, microbatches, rows), rounds=3)
    for name in (TORCH, FOLDED, DALI):
        if name in runs and NVIDIA in runs:
            what = f"bytes to features by {name.removeprefix('jasper_ray ')}"
            yield _figure("loader", what, NVIDIA, runs, name, NVIDIA, "s of audio per CPU-s")


def _figure(part: str, what: str, beside: str, runs: Mapping[str, Any], name: str, over: str, unit: str) -> Figure:
    value = ratio(runs, name, over)
    assert value is not None
    return Figure(part, what, beside, value, rates(runs)[name]["per_cpu_s"], unit)


def train_part() -> Iterator[Figure]:
    """A training step."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cases = tuple(Case(MODEL, batch_size=2, seconds=5.12, method=method) for method in ("conv1d", "auto"))
    measured = measure_beside_yardstick(cases, rounds=4, threads=1, device=device, with_errors=False)
    steps = measured["step_ms"]
    timed = "cpu" if device == "cpu" else "wall"
    unit = "utterances per CPU-s" if timed == "cpu" else "utterances per s"
    for case in cases:
        rate = 1e3 * case.batch_size / steps[case.name][f"{timed}_ms"]
        what = f"step of the {MODEL_NAME}, 2 x 5.12 s, {case.name}"
        yield Figure("train", what, YARDSTICK, steps[case.name][f"faster_{timed}"], rate, unit)


def inference_part() -> Iterator[Figure]:
    """Waveforms to best labels through the engine that serves."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = BundleConfig(features=FeatureConfig(), text=TextConfig(), model=MODEL)
    model = build_model(config.model, config.features, config.text).eval()
    bundle = Bundle(model, config, Alphabet(config.text.alphabet))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    benchmark = InferenceBenchmark(
        bundle, (1, 4), (4.0,), (("fp32", "auto"),), device, warmup=1, steps=6, with_yardstick=True, with_openvino=False
    )
    for row in measure_inference(benchmark, lambda line: None)["rows"][1::2]:
        what = f"{MODEL_NAME}, {row['batch_size']} x {row['duration_s']:g} s, {row['way'].split(',')[0]}"
        beside = row["faster_with_features_cpu" if device == "cpu" else "faster_with_features_wall"]
        yield Figure("inference", what, "yardstick, eager fp32", beside, row["audio_s_per_s"], "s of audio per s")


def serve_part() -> Iterator[Figure]:
    """What lies between a caller and the model: the scheduler, and the service over HTTP on Ray Serve."""
    found = measure_scheduler(SchedulerBenchmark(rounds=3, seconds=0.7))
    rate = found["requests_per_s"]
    yield Figure("serve", "scheduler under load", "the model alone", found["share_of_ideal"], rate, "requests per s")
    from jobs.benchmarks.serving_http import HttpBenchmark, measure_http  # here: the only part that needs Ray

    variants = ("empty_fastapi", "in_replica")
    http = measure_http(HttpBenchmark(requests=48, concurrency=8, rounds=4, variants=variants))
    over = "Ray Serve with an empty FastAPI"
    rate, alone = http["requests_per_s"]["in_replica"], 1e3 / http["p50_ms"]["in_replica"]
    beside = http["rate_beside_empty_fastapi"]
    yield Figure("serve", "HTTP, 8 callers, 3 ms model", over, beside, rate, "requests per s")
    yield Figure(
        "serve", "HTTP, one caller, 3 ms model", over, 1 / http["p50_beside_empty_fastapi"], alone, "requests per s"
    )


PARTS: dict[str, Callable[[], Iterator[Figure]]] = {
    "features": features_part,
    "loader": loader_part,
    "train": train_part,
    "inference": inference_part,
    "serve": serve_part,
}


def main() -> None:
    """Measure every part once and write the figures."""
    figures = [figure for part in PARTS.values() for figure in part()]
    Path(sys.argv[1]).write_text(json.dumps([asdict(figure) for figure in figures]))


if __name__ == "__main__":
    main()
