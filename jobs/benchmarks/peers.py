"""The same utterances in the formats of other projects, and how these read them: as each project's manual says.

The peers live in a virtual environment of their own (`make bench-peers`); what is not installed is named as absent.
Audio is stored as it is, so that all hold the same bytes; id and transcript are stored beside it.
"""

import importlib.util
import io
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from jobs.benchmarks.corpus import RATE_HZ, SHARD_BYTES, BenchmarkCorpus

Reading = Iterator[tuple[str, bytes]]
"""Ids and encoded audio."""

WDS_BUFFER = 500
NOT_INSTALLED = "not installed: make bench-peers"
LOCAL_DATASET = "mosaicml-streaming LocalDataset at random"
MODULES = {"WebDataset": "webdataset", "mosaicml-streaming": "streaming", "lhotse Shar": "lhotse"}


@dataclass(frozen=True)
class Peer:
    """One foreign format with the corpus in it."""

    name: str
    shuffled: Callable[[int], Reading]
    """Reads an epoch, told its number, in the shuffled order that the project offers for training."""
    others: dict[str, Callable[[int], Reading]]
    """Other orders, by name."""
    from_position: Callable[[int], Callable[[], Reading]]
    """Made ready (not timed) and then called (timed): an epoch from its n-th utterance on."""


def installed_peers() -> list[str]:
    """Names of the peers that are installed."""
    return [name for name, module in MODULES.items() if importlib.util.find_spec(module)]


def absent_peers() -> dict[str, str]:
    """Names of the others, and what to do about it."""
    return {name: NOT_INSTALLED for name in MODULES if name not in installed_peers()}


def make_peers(corpus: BenchmarkCorpus, folder: Path) -> list[Peer]:
    """The corpus in the format of every installed peer."""
    makers = {"WebDataset": webdataset_peer, "mosaicml-streaming": streaming_peer, "lhotse Shar": lhotse_peer}
    return [makers[name](corpus, folder / MODULES[name]) for name in installed_peers()]


def webdataset_peer(corpus: BenchmarkCorpus, folder: Path) -> Peer:
    """Tars of WebDataset's own writer; read with shuffled shards and its shuffle buffer."""
    import webdataset

    folder.mkdir(parents=True)
    with webdataset.ShardWriter(f"{folder}/%05d.tar", maxsize=SHARD_BYTES, verbose=0) as writer:
        for spoken in corpus.utterances:
            writer.write({"__key__": spoken.id, "flac": spoken.audio, "txt": spoken.text})
    tars = sorted(str(path) for path in folder.glob("*.tar"))

    def in_sequence(epoch: int) -> Reading:
        for sample in webdataset.WebDataset(tars, shardshuffle=False):
            yield sample["__key__"], sample["flac"]

    def shuffled(epoch: int) -> Reading:
        dataset = webdataset.WebDataset(tars, shardshuffle=len(tars), seed=epoch)
        for sample in dataset.shuffle(WDS_BUFFER, seed=epoch):
            yield sample["__key__"], sample["flac"]

    def from_position(position: int) -> Callable[[], Reading]:
        return lambda: islice(in_sequence(0), position, None)

    return Peer("WebDataset", shuffled, {"WebDataset in sequence": in_sequence}, from_position)


def streaming_peer(corpus: BenchmarkCorpus, folder: Path) -> Peer:
    """MDS; read by StreamingDataset with its default shuffle, and by LocalDataset in random order."""
    import numpy as np
    import streaming

    logging.getLogger("streaming").setLevel(logging.ERROR)
    columns = {"id": "str", "audio": "bytes", "text": "str"}
    with streaming.MDSWriter(columns=columns, out=str(folder), size_limit=SHARD_BYTES) as writer:
        for spoken in corpus.utterances:
            writer.write({"id": spoken.id, "audio": spoken.audio, "text": spoken.text})
    streaming.base.util.clean_stale_shared_memory()

    def dataset() -> Any:
        return streaming.StreamingDataset(local=str(folder), shuffle=True, batch_size=32)

    def pairs(samples: Any) -> Reading:
        try:
            for sample in samples:
                yield sample["id"], sample["audio"]
        finally:
            # As it does itself when the next epoch begins: its threads would go on beside whoever is measured next.
            samples._iterator.exit()

    streamed, local = dataset(), streaming.LocalDataset(str(folder))

    def at_random(epoch: int) -> Reading:
        for row in np.random.default_rng(epoch).permutation(len(local)).tolist():
            sample = local[row]
            yield sample["id"], sample["audio"]

    def from_position(position: int) -> Callable[[], Reading]:
        # `next_epoch` is set back, as in a new process: `StreamingDataset` forgets a state once it has gone past it.
        streamed.next_epoch = 0
        state = {**streamed.state_dict(0, True), "epoch": 0, "sample_in_epoch": position}

        def resume() -> Reading:
            streamed.load_state_dict(state)
            return pairs(streamed)

        return resume

    return Peer("mosaicml-streaming", lambda epoch: pairs(streamed), {LOCAL_DATASET: at_random}, from_position)


def lhotse_peer(corpus: BenchmarkCorpus, folder: Path) -> Peer:
    """Shar: Lhotse's tars of recordings beside its JSONL of cuts; read with shuffled shards.

    Written by Lhotse's own writers of tars and cuts, around the one step that would decode and encode every recording.
    """
    import lhotse
    from lhotse.shar import JsonlShardWriter, TarWriter
    from lhotse.shar.utils import to_shar_placeholder

    folder.mkdir(parents=True)
    shard_size = max(1, int(len(corpus.utterances) * SHARD_BYTES / corpus.num_bytes))
    with (
        TarWriter(f"{folder}/recording.%06d.tar", shard_size) as tars,
        JsonlShardWriter(f"{folder}/cuts.%06d.jsonl.gz", shard_size) as cuts,
    ):
        for spoken in corpus.utterances:
            recording = lhotse.Recording.from_bytes(spoken.audio, spoken.id)
            cut = recording.to_cut()
            cut.supervisions = [
                lhotse.SupervisionSegment(spoken.id, spoken.id, 0.0, spoken.num_samples / RATE_HZ, text=spoken.text)
            ]
            placeholder = to_shar_placeholder(recording, cut)
            tars.write(f"{cut.id}.flac", io.BytesIO(spoken.audio))
            tars.write(f"{cut.id}.json", io.BytesIO(json.dumps(placeholder.to_dict()).encode() + b"\n"), count=False)
            cut.recording = placeholder
            cuts.write(cut)

    def read(epoch: int, shuffle: bool) -> Reading:
        for cut in lhotse.CutSet.from_shar(in_dir=str(folder), shuffle_shards=shuffle, seed=epoch):
            yield cut.recording.id, cut.recording.sources[0].source

    def from_position(position: int) -> Callable[[], Reading]:
        return lambda: islice(read(0, False), position, None)

    return Peer("lhotse Shar", lambda epoch: read(epoch, True), {}, from_position)
