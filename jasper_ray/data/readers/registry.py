"""Which reader reads which corpus."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jasper_ray.config.data import CorpusConfig
from jasper_ray.data.download import LoggedProgress, Progress
from jasper_ray.data.librispeech_archives import fetch_subset, is_by_name, subsets_of
from jasper_ray.data.readers.corpus import CorpusUtterance
from jasper_ray.data.readers.folder import read_folder
from jasper_ray.data.readers.huggingface import is_huggingface, read_huggingface
from jasper_ray.data.readers.jsonl import is_jsonl, read_jsonl
from jasper_ray.data.readers.kaldi import is_kaldi, read_kaldi
from jasper_ray.data.readers.lhotse import is_lhotse, read_lhotse
from jasper_ray.data.readers.librispeech import is_librispeech, read_librispeech
from jasper_ray.data.readers.nemo import is_nemo, read_nemo
from jasper_ray.data.readers.nvidia import is_nvidia, read_nvidia
from jasper_ray.data.readers.table import is_table, read_table
from jasper_ray.data.readers.webdataset import is_webdataset, read_webdataset
from jasper_ray.data.synthetic import read_synthetic
from jasper_ray.errors import DataError
from jasper_ray.storage.store_path import CorpusPath, corpus_path


@dataclass(frozen=True)
class CorpusFormat:
    """A foreign format."""

    is_there: Callable[[CorpusPath], bool]
    """Whether a file or folder is of this format, by its content."""
    read: Callable[[CorpusPath], Iterator[CorpusUtterance]]


FORMATS: Mapping[str, CorpusFormat] = {
    "jsonl": CorpusFormat(is_jsonl, read_jsonl),
    "librispeech": CorpusFormat(is_librispeech, read_librispeech),
    "nvidia": CorpusFormat(is_nvidia, read_nvidia),
    "nemo": CorpusFormat(is_nemo, read_nemo),
    "lhotse": CorpusFormat(is_lhotse, read_lhotse),
    "kaldi": CorpusFormat(is_kaldi, read_kaldi),
    "table": CorpusFormat(is_table, read_table),
    "webdataset": CorpusFormat(is_webdataset, read_webdataset),
    "huggingface": CorpusFormat(is_huggingface, read_huggingface),
    # Only by its name: speech whose transcripts were not found must not pass for a corpus without any.
    "folder": CorpusFormat(lambda source: False, read_folder),
}
"""By name, in the order in which they are tried."""


def read_corpus(config: CorpusConfig) -> Iterator[CorpusUtterance]:
    """Utterances of a corpus that match its `where`.

    Raises:
        DataError: The format cannot be told, a file is wrong, or `where` names a field that the corpus does not have.
    """
    utterances: Iterator[CorpusUtterance]
    if is_by_name(config.source) and config.format in ("auto", "librispeech"):
        tars = [fetch_by_name(config, name) for name in subsets_of(config.source)]
        utterances = (utterance for tar in tars for utterance in read_librispeech(tar))
    elif config.format == "synthetic":
        split = config.where.get("split", ("train", "evaluation"))
        utterances = read_synthetic(config.source, (split,) if isinstance(split, str) else split)
    else:
        source = corpus_path(config.source)
        if not source.exists():
            raise DataError(f"{source}: there is no such corpus")
        utterances = FORMATS[detect_format(source) if config.format == "auto" else config.format].read(source)
    known: set[str] = set()
    num_utterances = 0
    for utterance in utterances:
        num_utterances += 1
        known.update(utterance.fields)
        if _matches(utterance, config.where):
            yield utterance
    unknown = [name for name in config.where if name not in known]
    if unknown and num_utterances:
        raise DataError(
            f"{config.source}: where names {unknown[0]!r}, which none of the {num_utterances} utterances has. They "
            f"have: {', '.join(sorted(known)) or 'no fields'}"
        )


def fetch_by_name(config: CorpusConfig, subset: str, progress: Progress | None = None) -> CorpusPath:
    """The tar of a subset of LibriSpeech, downloaded unless it is there already.

    Raises:
        StorageError: It cannot be fetched; names the mirrors with their reasons.
    """
    return fetch_subset(
        subset,
        Path(config.download_dir).expanduser(),
        progress=LoggedProgress() if progress is None else progress,
        mirror=config.mirror,
        keep_archive=config.keep_archives,
    )


def detect_format(source: CorpusPath) -> str:
    """The format of a corpus, by what lies there; the first that fits.

    Raises:
        DataError: None fits.
    """
    for name, corpus_format in FORMATS.items():
        if corpus_format.is_there(source):
            return name
    raise DataError(f"{source}: its format cannot be told. Name it with --format ({', '.join(FORMATS)})")


def _matches(utterance: CorpusUtterance, where: Mapping[str, str | tuple[str, ...]]) -> bool:
    """Whether the fields have the wanted values; one that is not there is empty, as in a table's optional column."""
    return all(
        utterance.fields.get(name, "") in ((wanted,) if isinstance(wanted, str) else wanted)
        for name, wanted in where.items()
    )
