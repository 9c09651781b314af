"""The loader benchmark: one corpus in everybody's format, everything measured in turn in one process."""

import datetime
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from jasper_ray.config.data import BatchingConfig
from jasper_ray.config.speech import ENGLISH_ALPHABET, AugmentConfig, FeatureConfig
from jasper_ray.data.plan import RunPlan
from jasper_ray.data.source import EncodedUtterance, UtteranceSource
from jasper_ray.storage.shard_cache import ShardCache
from jasper_ray.text.alphabet import Alphabet
from jobs.benchmarks.corpus import BenchmarkCorpus, make_corpus
from jobs.benchmarks.features import (
    BATCH,
    DALI,
    FOLDED,
    NVIDIA,
    TORCH,
    absent_loaders,
    feature_contenders,
    speed_augment,
)
from jobs.benchmarks.peers import LOCAL_DATASET, Peer, absent_peers, make_peers
from jobs.benchmarks.position import OURS, measure_positions
from jobs.benchmarks.reading import SHARD_READER, SOURCE, TOUCHES, reading_contenders
from jobs.benchmarks.timing import rates, ratio, run_in_turn
from jobs.benchmarks.waiting import Device, measure_waiting

DISTRIBUTIONS = ("torch", "numpy", "pyarrow", "soundfile", "soxr", "webdataset", "mosaicml-streaming", "lhotse")
DALI_DISTRIBUTION = "nvidia-dali-cuda130"


@dataclass(frozen=True)
class LoaderBenchmark:
    """How much is measured."""

    num_utterances: int = 2000
    """Utterances of the corpus; all of them are read in the reading part."""
    feature_utterances: int = 256
    """Of these, how many are turned into features."""
    rounds: int = 7
    """Rounds of the reading and features parts, after one that warms up."""
    waiting_rounds: int = 3
    positions: int = 9
    """Places of the epoch that are looked for."""
    device_audio_s_per_s: float = 1850.0
    """What one loader thread has to feed: half of 300 utterances of 12.3 s per second."""


def measure_loading(benchmark: LoaderBenchmark, say: Callable[[str], None]) -> dict[str, Any]:
    """All parts; `say` is told what is going on."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="jasper-benchmark-") as folder:
        say(f"{benchmark.num_utterances} utterances in every format")
        corpus = make_corpus(Path(folder) / "ours", benchmark.num_utterances)
        peers = make_peers(corpus, Path(folder) / "peers")
        figures = _measure(benchmark, corpus, peers, OurSources(corpus, Path(folder) / "cache"), say)
        return _about(corpus) | figures


class OurSources:
    """This project's plan and sources over the corpus."""

    def __init__(self, corpus: BenchmarkCorpus, cache: Path) -> None:
        self._corpus = corpus
        self._cache = ShardCache(cache, 10**9)
        batching = BatchingConfig(utterances_per_microbatch=BATCH, microbatches_per_step=4)
        self.plan = RunPlan(corpus.manifest.durations_s, seed=0, batching=batching, augment=speed_augment())

    def source(self, augment: AugmentConfig | None) -> UtteranceSource:
        """Encoded utterances with or without draws of an augmentation."""
        alphabet = Alphabet(ENGLISH_ALPHABET)
        return UtteranceSource(self._corpus.manifest, alphabet, FeatureConfig(), augment, 0, self._cache)

    def microbatches(self, rows: list[int], augment: AugmentConfig, epoch: int) -> Iterator[list[EncodedUtterance]]:
        """Rows of the corpus in batches."""
        source = self.source(augment)
        return (source.microbatch(rows[start : start + BATCH], epoch) for start in range(0, len(rows), BATCH))


def _measure(
    benchmark: LoaderBenchmark, corpus: BenchmarkCorpus, peers: list[Peer], ours: OurSources, say: Callable[[str], None]
) -> dict[str, Any]:
    source, plain = ours.source(speed_augment()), ours.source(None)
    reading: dict[str, Any] = {}
    for name, touch in TOUCHES.items():
        say(f"reading, {name}")
        runs = run_in_turn(reading_contenders(corpus, peers, source, plain, ours.plan, touch), benchmark.rounds)
        pairs = [(mine, peer.name) for mine in (SHARD_READER, SOURCE) for peer in peers]
        pairs += [(mine, other) for mine in (SHARD_READER, SOURCE) for peer in peers for other in peer.others]
        reading[name] = {"utterances": rates(runs), "ratios": _ratios(runs, pairs)}
    rows = list(range(min(benchmark.feature_utterances, len(corpus.utterances))))

    def microbatches(augment: AugmentConfig, epoch: int) -> Iterator[list[EncodedUtterance]]:
        return ours.microbatches(rows, augment, epoch)

    say("features")
    runs = run_in_turn(feature_contenders(corpus, microbatches, rows), benchmark.rounds)
    features = {"audio_s": rates(runs), "ratios": _ratios(runs, [(name, NVIDIA) for name in (TORCH, FOLDED, DALI)])}
    say("positions")
    positions = measure_positions(ours.plan, source, peers, len(corpus.utterances), rounds=benchmark.positions)
    say("waiting")
    everything = source.microbatch(list(range(len(corpus.utterances))), 0)
    device = Device(benchmark.device_audio_s_per_s)
    waiting = measure_waiting(
        corpus, peers, microbatches, rows, everything, device=device, rounds=benchmark.waiting_rounds
    )
    return {
        "rounds": benchmark.rounds,
        "feature_utterances": len(rows),
        "absent": absent_peers() | absent_loaders(),
        "reading": reading,
        "features": features,
        "position": positions,
        "waiting": {"device_audio_s_per_s": device.audio_s_per_s, "of_step": waiting},
        "targets": _targets(reading, features, positions),
    }


def _ratios(runs: Any, pairs: list[tuple[str, str]]) -> dict[str, float]:
    ratios = {f"{name} / {over}": ratio(runs, name, over) for name, over in pairs}
    return {name: value for name, value in ratios.items() if value is not None}


def _targets(reading: Any, features: Any, positions: Any) -> list[dict[str, Any]]:
    """What was to be reached and what was; `met` is null where a contender is absent."""
    edges, every_line = reading["edges"]["ratios"], reading["every line"]["ratios"]
    wanted = [
        (f"reading: {mine} / {peer}, {touch}", least, ratios.get(f"{mine} / {peer}"))
        for peer, least in (("WebDataset", 10.0), ("mosaicml-streaming", 2.0), (LOCAL_DATASET, 2.0))
        for mine in (SHARD_READER, SOURCE)
        for touch, ratios in (("edges", edges), ("every line", every_line))
    ]
    wanted += [
        (f"features: {mine} / {NVIDIA}", least, features["ratios"].get(f"{mine} / {NVIDIA}"))
        for mine, least in ((TORCH, 2.5), (DALI, 2.5), (FOLDED, 3.5))
    ]
    rows: list[dict[str, Any]] = [
        {"what": what, "at_least": least, "measured": value, "met": None if value is None else value >= least}
        for what, least, value in wanted
    ]
    slowest_ms = positions[OURS]["every_step_largest_ms"]
    what = "position: milliseconds to the first bytes of the slowest of all steps"
    return [*rows, {"what": what, "at_most": 1.0, "measured": slowest_ms, "met": slowest_ms <= 1.0}]


def _about(corpus: BenchmarkCorpus) -> dict[str, Any]:
    """What the figures belong to."""
    return {
        "benchmark": "loader",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": hardware(),
        "versions": {"python": platform.python_version(), **versions()},
        "corpus": {
            "speech": corpus.kind,
            "utterances": len(corpus.utterances),
            "hours": corpus.manifest.hours,
            "megabytes": corpus.num_bytes / 1e6,
            "encoding": "FLAC, 16 kHz, 16 bit",
        },
    }


def hardware() -> dict[str, Any]:
    """What this machine is, and how busy."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cpus": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "load_average_at_the_end": os.getloadavg()[0],
    }


def versions() -> dict[str, str]:
    """Of the packages that figures depend on."""
    found = {}
    for name in (*DISTRIBUTIONS, DALI_DISTRIBUTION):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
