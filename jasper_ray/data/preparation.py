"""A corpus to a dataset: every utterance is decoded once, so that what is in a dataset is known to be usable."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from jasper_ray.audio.decode import AudioInfo, audio_info, decode_audio
from jasper_ray.config.data import CorpusConfig
from jasper_ray.data.manifest import MANIFEST_FILE, Utterance, manifest_of, read_manifest, write_manifest
from jasper_ray.data.readers.corpus import CorpusUtterance
from jasper_ray.data.readers.registry import read_corpus
from jasper_ray.data.shards import SHARD_BYTES, ShardWriter
from jasper_ray.errors import AudioError, DataError
from jasper_ray.storage import object_store
from jasper_ray.text.alphabet import Alphabet
from jasper_ray.text.normalize import normalize_text

logger = logging.getLogger(__name__)

CHUNK = 64
MAX_CHARACTERS_PER_S = 100
"""One per feature frame of 10 ms, more than CTC can put out; speech has 10 to 25."""


@dataclass(frozen=True)
class PreparationReport:
    """What became of a corpus."""

    num_utterances: int
    hours: float
    num_shards: int
    rejected: tuple[tuple[str, str], ...]
    """Id and reason of every utterance that is not in the dataset."""
    reused: bool
    """Whether the dataset was there already."""


@dataclass(frozen=True)
class _Checked:
    utterance: CorpusUtterance
    encoded: bytes
    text: str
    num_samples: int
    sample_rate_hz: int
    rejection: str | None


def prepare_dataset(
    corpora: Sequence[CorpusConfig],
    target: str,
    *,
    alphabet: str,
    strict: bool = False,
    shard_bytes: int = SHARD_BYTES,
    num_threads: int = 2,
) -> PreparationReport:
    """Write shards, then the manifest, whose presence means that the dataset is complete.

    The same corpora give the same bytes. A dataset that is there already is left as it is.

    Args:
        corpora: Read one after another.
        target: Folder of the dataset, local or remote.
        alphabet: Characters that transcripts may have after normalisation.
        strict: Fail on the first corpus with unusable utterances instead of leaving these out.
        shard_bytes: Size of a shard.
        num_threads: Threads that decode.

    Raises:
        ValueError: `alphabet` is empty or has a character twice.
        DataError: A corpus is malformed, an id comes twice, nothing usable is left, or `strict` and something is not.
    """
    labels = Alphabet(alphabet)
    if object_store.exists(object_store.join(target, MANIFEST_FILE)):
        there = read_manifest(target)
        return PreparationReport(len(there), there.hours, len(there.shards), (), reused=True)
    writer = ShardWriter(target, shard_bytes=shard_bytes)
    utterances: list[Utterance] = []
    rejected: list[tuple[str, str]] = []
    seen: set[str] = set()
    for checked in _checked(corpora, labels, num_threads):
        name = checked.utterance.id
        if name in seen:
            raise DataError(f"utterance id {name!r} comes twice in {', '.join(c.source for c in corpora)}")
        seen.add(name)
        if checked.rejection is not None:
            rejected.append((name, checked.rejection))
            continue
        shard, row = writer.add(name, checked.encoded, checked.utterance.path, checked.text)
        utterances.append(
            Utterance(
                id=name,
                text=checked.text,
                duration_s=checked.num_samples / checked.sample_rate_hz,
                num_samples=checked.num_samples,
                sample_rate_hz=checked.sample_rate_hz,
                speaker=checked.utterance.speaker,
                shard=shard,
                row=row,
            )
        )
    _refuse(rejected, utterances, corpora, strict)
    writer.close()
    manifest = manifest_of(utterances)
    write_manifest(target, manifest)
    return PreparationReport(len(manifest), manifest.hours, len(manifest.shards), tuple(rejected), reused=False)


def _refuse(
    rejected: list[tuple[str, str]], utterances: list[Utterance], corpora: Sequence[CorpusConfig], strict: bool
) -> None:
    for name, reason in rejected:
        logger.warning("left out %s: %s", name, reason)
    sources = ", ".join(corpus.source for corpus in corpora)
    if rejected and (strict or not utterances):
        shown = "; ".join(f"{name}: {reason}" for name, reason in rejected[:10])
        raise DataError(f"{len(rejected)} utterances of {sources} cannot be used: {shown}")
    if not utterances:
        raise DataError(f"no utterance of {sources} was selected: check where ({[dict(c.where) for c in corpora]})")


def _checked(corpora: Sequence[CorpusConfig], alphabet: Alphabet, num_threads: int) -> Iterator[_Checked]:
    """Checked utterances in the order of the corpora, a bounded number of them in memory."""
    utterances = (utterance for corpus in corpora for utterance in read_corpus(corpus))
    with ThreadPoolExecutor(num_threads) as threads:
        while chunk := list(islice(utterances, CHUNK)):
            yield from threads.map(lambda utterance: _check(utterance, alphabet), chunk)


def _check(utterance: CorpusUtterance, alphabet: Alphabet) -> _Checked:
    text = normalize_text(utterance.text, alphabet.labels)
    try:
        encoded = utterance.audio.read()
        info = audio_info(encoded)
        decoded = decode_audio(encoded, sample_rate_hz=info.sample_rate_hz)
    except AudioError as error:
        return _Checked(utterance, b"", text, 0, 1, str(error))
    return _Checked(
        utterance, encoded, text, info.num_samples, info.sample_rate_hz, _unusable(text, decoded, info, alphabet)
    )


def _unusable(text: str, waveform: np.ndarray, info: AudioInfo, alphabet: Alphabet) -> str | None:
    """Why an utterance that decodes cannot be used."""
    if not text:
        return "the transcript is empty"
    try:
        alphabet.encode(text)
    except ValueError as error:
        return str(error)
    if not np.any(waveform):
        return "the audio is digital silence"
    if len(text) > info.duration_s * MAX_CHARACTERS_PER_S:
        return f"it lasts {info.duration_s:g} s, too short for a transcript of {len(text)} characters"
    return None
