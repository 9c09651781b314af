"""A corpus to a dataset: listed, cut into shards, each made by itself, and a manifest at the end.

Each shard is a function of its share of the listing and the options. So it does not matter which process or node
makes it, and a preparation that was killed at any point and is started again makes the missing ones only, with the
bytes of an undisturbed one. Two preparations of the same corpus into one target at once write the same bytes.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa

from jasper_ray.config.data import CorpusConfig, PreparationConfig
from jasper_ray.data.corpus_report import REPORT_FILE, REPORT_PAGE, corpus_report
from jasper_ray.data.manifest import MANIFEST_FILE, SCHEMA, SHARDS_FOLDER, read_manifest, write_manifest_table
from jasper_ray.data.readers.corpus import CorpusUtterance
from jasper_ray.data.readers.registry import read_corpus
from jasper_ray.data.report_page import report_page
from jasper_ray.data.shard_task import ShardRecord, ShardTask, delete_records, make_shard, require_new_ids
from jasper_ray.data.shards import shard_name
from jasper_ray.data.usability import Rejection, count_by_kind
from jasper_ray.errors import DataError, StorageError
from jasper_ray.storage import object_store
from jasper_ray.text.alphabet import Alphabet

logger = logging.getLogger(__name__)

NUM_SHOWN = 10
Runner = Callable[[Iterator[ShardTask]], Iterable[ShardRecord]]
"""Makes shards somewhere; records may come in any order."""


@dataclass(frozen=True)
class PreparationReport:
    """What became of a corpus."""

    num_utterances: int
    hours: float
    num_shards: int
    rejections: tuple[Rejection, ...]
    """Every utterance of the corpus that is not in the dataset."""
    reused: bool
    """Whether the dataset was there already."""
    num_shards_found: int = 0
    """Shards that an earlier, unfinished run had made."""

    @property
    def rejected_by_kind(self) -> list[tuple[str, int]]:
        """Groups of reasons with their numbers, the largest first."""
        return count_by_kind(self.rejections)


def in_this_process(num_threads: int) -> Runner:
    """Shards one after another by threads of this process."""
    return lambda tasks: (make_shard(task, num_threads=num_threads) for task in tasks)


def prepare_dataset(
    corpora: Sequence[CorpusConfig],
    target: str,
    *,
    alphabet: str,
    config: PreparationConfig | None = None,
    strict: bool = False,
    run: Runner | None = None,
) -> PreparationReport:
    """Write shards, then the report, then the manifest, whose presence means that the dataset is complete.

    The same corpora and options give the same bytes. A dataset that is there already is left as it is.

    Args:
        corpora: Read one after another.
        target: Folder of the dataset, local or remote.
        alphabet: Characters that transcripts may have after normalisation.
        config: Which utterances are taken and how shards are written.
        strict: Fail, with the list, if an utterance cannot be used, instead of leaving it out. The shards stay: the
            same preparation without it ends at once.
        run: Who makes the shards; default two threads of this process.

    Raises:
        ValueError: `alphabet` is empty or has a character twice.
        DataError: A corpus is malformed, an id comes twice, nothing usable is left, or `strict` and something is not.
        StorageError: The corpus cannot be read or the dataset not be written.
    """
    Alphabet(alphabet)
    config = config or PreparationConfig()
    if _is_complete(target):
        return _reuse(target)
    sources = ", ".join(corpus.source for corpus in corpora)
    listing = require_new_ids((u for corpus in corpora for u in read_corpus(corpus)), sources)
    tasks = shard_tasks(listing, target, alphabet=alphabet, config=config)
    try:
        records = sorted((run or in_this_process(2))(tasks), key=lambda record: record.number)
        _refuse(records, corpora, strict=strict)
        return _finish(target, records, corpora, alphabet, config)
    except StorageError:
        if _is_complete(target):  # by another process, which has tidied up what this one was still writing
            return _reuse(target)
        raise


def shard_tasks(
    listing: Iterable[CorpusUtterance], target: str, *, alphabet: str, config: PreparationConfig
) -> Iterator[ShardTask]:
    """The listing cut into shards of about `shard_mb`: a share ends with the utterance that reaches it."""
    limit_bytes = config.shard_mb * 1e6
    share: list[CorpusUtterance] = []
    num_bytes, number = 0, 0
    for utterance in listing:
        share.append(utterance)
        num_bytes += utterance.audio.num_bytes * (1 + len(config.speeds))
        if num_bytes >= limit_bytes:
            yield ShardTask(number, tuple(share), target, alphabet, config)
            share, num_bytes, number = [], 0, number + 1
    if share:
        yield ShardTask(number, tuple(share), target, alphabet, config)


def _refuse(records: Sequence[ShardRecord], corpora: Sequence[CorpusConfig], *, strict: bool) -> None:
    rejections = [rejection for record in records for rejection in record.rejections]
    for rejection in rejections[:NUM_SHOWN]:
        logger.warning("left out %s: %s", rejection.id, rejection.reason)
    if len(rejections) > NUM_SHOWN:
        logger.warning("left out %d more: %s of the dataset lists them", len(rejections) - NUM_SHOWN, REPORT_FILE)
    sources = ", ".join(corpus.source for corpus in corpora)
    num_usable = sum(len(record.rows) for record in records)
    if rejections and (strict or not num_usable):
        shown = rejections if strict else rejections[:NUM_SHOWN]
        listed = "; ".join(f"{rejection.id}: {rejection.reason}" for rejection in shown)
        raise DataError(f"{len(rejections)} utterances of {sources} cannot be used: {listed}")
    if not num_usable:
        raise DataError(f"no utterance of {sources} was selected: check where ({[dict(c.where) for c in corpora]})")


def _finish(
    target: str,
    records: Sequence[ShardRecord],
    corpora: Sequence[CorpusConfig],
    alphabet: str,
    config: PreparationConfig,
) -> PreparationReport:
    """Report and manifest from the records."""
    shards = {shard_name(record.number): record for record in records if record.checksum}
    times = Counter(row["id"] for record in shards.values() for row in record.rows)
    doubled = [name for name, count in times.items() if count > 1]
    if doubled:  # the listing has each once, so one is the name of another's copy
        raise DataError(
            f"utterance id {doubled[0]!r} is also that of a copy at another speed: rename it, or leave out speeds"
        )
    table = pa.concat_tables(_rows(name, record) for name, record in shards.items()).combine_chunks()
    report = corpus_report(table, records, corpora=corpora, alphabet=alphabet, config=config)
    object_store.write_bytes(object_store.join(target, REPORT_FILE), report.json())
    object_store.write_bytes(object_store.join(target, REPORT_PAGE), report_page(report).encode())
    write_manifest_table(target, table, {name: record.checksum for name, record in shards.items()})
    _tidy(target, set(shards))
    return PreparationReport(
        num_utterances=table.num_rows,
        hours=report.hours,
        num_shards=len(shards),
        rejections=tuple(rejection for record in records for rejection in record.rejections),
        reused=False,
        num_shards_found=sum(record.found for record in records),
    )


def _is_complete(target: str) -> bool:
    return object_store.exists(object_store.join(target, MANIFEST_FILE))


def _reuse(target: str) -> PreparationReport:
    """A dataset that is there; the run that made it may have been killed just before its end."""
    there = read_manifest(target)
    _tidy(target, {shard.rpartition("/")[2] for shard in there.shards})
    return PreparationReport(len(there), there.hours, len(there.shards), (), reused=True)


def _tidy(target: str, shards: set[str]) -> None:
    """Delete the records and what other attempts have left among the shards of a complete dataset."""
    for name in object_store.list_files(object_store.join(target, SHARDS_FOLDER)):
        if name not in shards:
            object_store.delete_file(object_store.join(target, SHARDS_FOLDER, name))
    with suppress(StorageError):  # another process may write one at this moment; it tidies up itself
        delete_records(target)


def _rows(name: str, record: ShardRecord) -> pa.Table:
    columns = {column: [row[column] for row in record.rows] for column in record.rows[0]}
    places = {"shard": [name] * len(record.rows), "row": list(range(len(record.rows)))}
    return pa.table({**columns, **places}, schema=SCHEMA)
