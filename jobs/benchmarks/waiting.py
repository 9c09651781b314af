"""Share of a training step that is spent waiting for one loader thread.

The device is a sleep: it takes so many seconds of audio per second, while the processor is the loader's alone, as it is
beside a GPU. Readers of other projects feed this project's torch loader, since they make no features themselves.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from jasper_ray.config.data import LoaderConfig
from jasper_ray.config.speech import FeatureConfig
from jasper_ray.data.source import EncodedUtterance
from jasper_ray.data.torch_loader import TorchLoader
from jobs.benchmarks.corpus import BenchmarkCorpus
from jobs.benchmarks.features import BATCH, NVIDIA, Microbatches, loaders
from jobs.benchmarks.nvidia_dali import NvidiaGraph, has_dali
from jobs.benchmarks.peers import Peer

Seconds = Iterator[float]
"""Seconds of audio of each batch, given when the batch is ready."""


@dataclass(frozen=True)
class Device:
    """What takes the batches."""

    audio_s_per_s: float

    def share_waiting(self, batches: Seconds) -> float:
        """Part of the time from the second batch on that is spent waiting for one; NaN if there is no second."""
        waiting_s = training_s = 0.0
        next(batches)  # start-up is not a step
        while True:
            started_s = time.perf_counter()
            audio_s = next(batches, None)
            if audio_s is None:
                return waiting_s / (waiting_s + training_s) if training_s else math.nan
            waiting_s += time.perf_counter() - started_s
            time.sleep(audio_s / self.audio_s_per_s)
            training_s += audio_s / self.audio_s_per_s


def measure_waiting(
    corpus: BenchmarkCorpus,
    peers: list[Peer],
    microbatches: Microbatches,
    rows: list[int],
    everything: list[EncodedUtterance],
    *,
    device: Device,
    rounds: int,
) -> dict[str, dict[str, Any]]:
    """Median share over the rounds, run in turn.

    Args:
        corpus: The utterances.
        peers: Other readers of them.
        microbatches: What this project's loaders are given.
        rows: The utterances in these.
        everything: All utterances with their draws, for the peers, which begin wherever their shuffling does.
        device: What takes the batches.
        rounds: How often.
    """
    feeds = _feeds(corpus, peers, microbatches, rows, everything)
    shares: dict[str, list[float]] = {name: [] for name in feeds}
    for epoch in range(rounds):
        for name, feed in feeds.items():
            shares[name].append(device.share_waiting(feed(epoch)))
    return {name: {"share": statistics.median(values), "rounds": values} for name, values in shares.items()}


def _feeds(
    corpus: BenchmarkCorpus,
    peers: list[Peer],
    microbatches: Microbatches,
    rows: list[int],
    everything: list[EncodedUtterance],
) -> dict[str, Callable[[int], Seconds]]:
    durations_s: list[float] = corpus.manifest.durations_s.tolist()
    feeds: dict[str, Callable[[int], Seconds]] = {
        name: partial(_load, make, partial(microbatches, augment), durations_s)
        for name, (augment, make) in loaders().items()
    }
    if has_dali():
        files = [corpus.files[row] for row in rows]
        feeds[NVIDIA] = partial(_graph, files, rows, durations_s)
    known = {utterance.id: utterance for utterance in everything}
    for peer in peers:
        feeds[f"{peer.name} + torch loader of jasper_ray"] = partial(
            _load, _torch_loader, partial(_of_peer, peer, known, len(rows)), durations_s
        )
    return feeds


def _torch_loader() -> TorchLoader:
    return TorchLoader(FeatureConfig(), LoaderConfig(num_threads=1))


def _load(
    make: Callable[[], Any],
    microbatches: Callable[[int], Iterator[list[EncodedUtterance]]],
    durations_s: list[float],
    epoch: int,
) -> Seconds:
    loader = make()
    try:
        for batch in loader.load(microbatches(epoch)):
            yield sum(durations_s[index] for index in batch.indices)
    finally:
        loader.close()


def _graph(files: list[Path], rows: list[int], durations_s: list[float], epoch: int) -> Seconds:
    # A new graph every time: an old one would work ahead while others are measured.
    graph = NvidiaGraph(files, batch_size=BATCH, num_threads=1, seed=epoch, ahead=True)
    for _, numbers in graph.epoch():
        yield sum(durations_s[rows[number]] for number in numbers)


def _of_peer(
    peer: Peer, known: Mapping[str, EncodedUtterance], num_utterances: int, epoch: int
) -> Iterator[list[EncodedUtterance]]:
    """Micro-batches of a peer's bytes, with the draws that this project made for these utterances."""
    taken = islice(peer.shuffled(epoch), num_utterances)
    while batch := list(islice(taken, BATCH)):
        yield [replace(known[name], audio=audio) for name, audio in batch]
