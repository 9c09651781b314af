"""Raw reading: the encoded bytes of every utterance of an epoch, in shuffled order, one thread, files in memory.

Two ways to take the audio, the same for all: `edges` looks at its length, first and last byte (what a reader hands
over); `every line` reads a byte of every 64, so that all of it has come through the processor (what a decoder will do,
whoever copied it before).
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import numpy as np

from jasper_ray.config.speech import AugmentConfig
from jasper_ray.data.plan import RunPlan
from jasper_ray.data.shards import ShardReader
from jasper_ray.data.source import UtteranceSource
from jasper_ray.storage import object_store
from jobs.benchmarks.corpus import BenchmarkCorpus
from jobs.benchmarks.peers import Peer
from jobs.benchmarks.timing import Work

Audio = bytes | memoryview

SPEED = AugmentConfig(speed_min=0.85, speed_max=1.15)
SHARD_READER, SOURCE = "jasper_ray ShardReader", "jasper_ray UtteranceSource"


def edges(audio: Audio) -> int:
    """Length, first and last byte."""
    return len(audio) + audio[0] + audio[-1]


def every_line(audio: Audio) -> int:
    """A byte of every line of the processor's cache."""
    return int(np.frombuffer(audio, np.uint8)[::64].sum())


TOUCHES: dict[str, Callable[[Audio], int]] = {"edges": edges, "every line": every_line}


def reading_contenders(
    corpus: BenchmarkCorpus,
    peers: list[Peer],
    source: UtteranceSource,
    plain_source: UtteranceSource,
    plan: RunPlan,
    touch: Callable[[Audio], int],
) -> dict[str, Work]:
    """Readers of one epoch by name; each returns how many utterances it read."""
    readers: dict[str, Callable[[int], Iterable[tuple[str, Audio]]]] = {
        SHARD_READER: partial(_read_shards, corpus, _open_shards(corpus)),
        SOURCE: partial(_read_source, plan, source),
        f"{SOURCE}, no augmentation": partial(_read_source, plan, plain_source),
        "individual files": partial(_read_files, corpus),
    }
    for peer in peers:
        readers |= {peer.name: peer.shuffled, **peer.others}
    return {name: partial(_consume, read, touch, len(corpus.utterances)) for name, read in readers.items()}


def _consume(
    read: Callable[[int], Iterable[tuple[str, Audio]]], touch: Callable[[Audio], int], expected: int, epoch: int
) -> float:
    count = 0
    for _, audio in read(epoch):
        touch(audio)
        count += 1
    # StreamingDataset repeats utterances where they do not divide by its ranks and batches; nobody may read fewer.
    assert count >= expected, f"read {count} of {expected} utterances"
    return float(count)


def _open_shards(corpus: BenchmarkCorpus) -> list[ShardReader]:
    return [ShardReader(object_store.local_path(shard)) for shard in corpus.manifest.shards]


def _read_shards(corpus: BenchmarkCorpus, shards: list[ShardReader], epoch: int) -> Iterator[tuple[str, Audio]]:
    """Random access by the manifest, whose ids and transcripts are in memory."""
    manifest = corpus.manifest
    order = np.random.default_rng(epoch).permutation(len(manifest))
    places = zip(order.tolist(), manifest.shard_index[order].tolist(), manifest.rows[order].tolist(), strict=True)
    for utterance, shard, row in places:
        yield manifest.ids[utterance], shards[shard].audio(row)


def _read_source(plan: RunPlan, source: UtteranceSource, epoch: int) -> Iterator[tuple[str, Audio]]:
    """What a loader is fed with: order of the plan, label ids and all random draws included."""
    epoch_plan = plan.epoch(epoch)
    for step in range(epoch_plan.num_steps):
        for number in range(epoch_plan.microbatches_per_step):
            for utterance in source.microbatch(epoch_plan.microbatch(step, number).tolist(), epoch):
                yield utterance.id, utterance.audio


def _read_files(corpus: BenchmarkCorpus, epoch: int) -> Iterator[tuple[str, Audio]]:
    for number in np.random.default_rng(epoch).permutation(len(corpus.files)).tolist():
        yield corpus.utterances[number].id, corpus.files[number].read_bytes()
