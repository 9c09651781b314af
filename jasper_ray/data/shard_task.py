"""One shard of a preparation: from its share of the corpus to a file in the dataset, and a record that it is done.

The record is put after the shard, so whoever finds one need not make the shard again. It names the share and the
options that it was made from by a fingerprint; a record of another share or of other options counts for nothing.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from jasper_ray.config.data import PreparationConfig
from jasper_ray.data.manifest import MANIFEST_FILE
from jasper_ray.data.readers.corpus import CorpusUtterance
from jasper_ray.data.shards import ShardRow, put_shard, shard_name
from jasper_ray.data.usability import Rejection, Usable, examine
from jasper_ray.errors import DataError
from jasper_ray.storage import object_store
from jasper_ray.text.alphabet import Alphabet

PARTS_FOLDER = "parts"
RECORD_VERSION = 1


@dataclass(frozen=True)
class ShardTask:
    """A shard to be made."""

    number: int
    utterances: tuple[CorpusUtterance, ...]
    target: str
    """The dataset."""
    alphabet: str
    config: PreparationConfig

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all that decides what the shard holds, except the content of the audio files."""
        digest = hashlib.sha256(f"{RECORD_VERSION}\n{self.alphabet}\n{self.config.model_dump_json()}\n".encode())
        for utterance in self.utterances:
            told = (utterance.id, utterance.path, utterance.text, utterance.speaker, utterance.audio.num_bytes)
            digest.update(json.dumps(told).encode() + b"\n")
        return digest.hexdigest()


@dataclass(frozen=True)
class ShardRecord:
    """What a shard holds and what was left out of it."""

    number: int
    fingerprint: str
    checksum: str
    """SHA-256 of the shard; empty if nothing of its share could be used, so that there is none."""
    rows: list[dict[str, Any]]
    """Columns of the manifest, without `shard` and `row`, which follow from the order."""
    rejections: tuple[Rejection, ...]
    containers: dict[str, int]
    """Utterances by file format."""
    channels: dict[str, int]
    """Utterances by number of channels."""
    found: bool = False
    """Whether it was made by an earlier run."""


def make_shard(task: ShardTask, *, num_threads: int) -> ShardRecord:
    """Make a shard and put its record, unless a record says that this very shard is there already.

    Raises:
        DataError: A file of the corpus cannot be read.
        StorageError: The dataset cannot be written.
    """
    fingerprint = task.fingerprint
    there = read_record(task.target, task.number)
    if there is not None and there.fingerprint == fingerprint:
        return there
    alphabet = Alphabet(task.alphabet)
    usable: list[Usable] = []
    rejections: list[Rejection] = []
    with ThreadPoolExecutor(num_threads, thread_name_prefix="prepare") as threads:
        for items in threads.map(lambda u: examine(u, alphabet=alphabet, config=task.config), task.utterances):
            usable += [item for item in items if isinstance(item, Usable)]
            rejections += [item for item in items if isinstance(item, Rejection)]
    checksum = ""
    if usable:
        checksum = put_shard(
            task.target, task.number, [ShardRow(item.id, item.audio, item.path, item.text) for item in usable]
        )
    record = ShardRecord(
        task.number,
        fingerprint,
        checksum,
        [_row(item) for item in usable],
        tuple(rejections),
        dict(Counter(item.info.container for item in usable)),
        dict(Counter(str(item.info.channels) for item in usable)),
    )
    # A task may outlive its driver or its node and come to an end after others have done its work: then nobody would
    # take its record away.
    if not object_store.exists(object_store.join(task.target, MANIFEST_FILE)):
        object_store.write_bytes(_record_uri(task.target, task.number), _encoded(record))
    return record


def read_record(target: str, number: int) -> ShardRecord | None:
    """The record of a shard, or none if there is none, or something else in its place.

    Raises:
        StorageError: The store does not say.
    """
    uri = _record_uri(target, number)
    if not object_store.exists(uri):
        return None
    content = object_store.read_bytes(uri)
    try:
        told = json.loads(content)
        told["rejections"] = tuple(Rejection(*told_one) for told_one in told["rejections"])
        return ShardRecord(**told, found=True)
    except (ValueError, TypeError, KeyError):  # written by something else; it is made again
        return None


def delete_records(target: str) -> None:
    """Forget what was done: the dataset is complete."""
    object_store.delete_tree(object_store.join(target, PARTS_FOLDER))


def _row(item: Usable) -> dict[str, Any]:
    return {
        "id": item.id,
        "text": item.text,
        "duration_s": item.info.duration_s,
        "num_samples": item.info.num_samples,
        "sample_rate_hz": item.info.sample_rate_hz,
        "speaker": item.speaker,
    }


def _encoded(record: ShardRecord) -> bytes:
    told = asdict(record)
    del told["found"]
    told["rejections"] = [[r.id, r.kind, r.reason] for r in record.rejections]
    return json.dumps(told).encode()


def _record_uri(target: str, number: int) -> str:
    return object_store.join(target, PARTS_FOLDER, f"{shard_name(number).partition('.')[0]}.json")


def require_new_ids(utterances: Iterable[CorpusUtterance], sources: str) -> Iterator[CorpusUtterance]:
    """The same utterances.

    Raises:
        DataError: An id comes twice.
    """
    seen: set[str] = set()
    for utterance in utterances:
        if utterance.id in seen:
            raise DataError(f"utterance id {utterance.id!r} comes twice in {sources}")
        seen.add(utterance.id)
        yield utterance
