"""Which reader reads which corpus."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from jasper_ray.config.schema import CorpusConfig
from jasper_ray.data.readers.corpus import CorpusUtterance
from jasper_ray.data.readers.jsonl import MANIFEST_FILE, read_jsonl
from jasper_ray.data.readers.librispeech import TRANSCRIPTS, read_librispeech
from jasper_ray.data.synthetic import read_synthetic
from jasper_ray.errors import DataError

READERS: Mapping[str, Callable[[Path], Iterator[CorpusUtterance]]] = {
    "librispeech": read_librispeech,
    "jsonl": read_jsonl,
}


def read_corpus(config: CorpusConfig) -> Iterator[CorpusUtterance]:
    """Utterances of a corpus that match its `where`.

    Raises:
        DataError: The format cannot be told, a file is wrong, or `where` names a field that the corpus does not have.
    """
    if config.format == "synthetic":
        split = config.where.get("split", ("train", "evaluation"))
        utterances = read_synthetic(config.source, (split,) if isinstance(split, str) else split)
    else:
        source = Path(config.source).expanduser()
        if not source.exists():
            raise DataError(f"{source}: there is no such corpus")
        utterances = READERS[detect_format(source) if config.format == "auto" else config.format](source)
    for utterance in utterances:
        if _matches(utterance, config):
            yield utterance


def detect_format(source: Path) -> str:
    """The format of a corpus, by what lies there.

    Raises:
        DataError: None fits.
    """
    if source.suffix == ".jsonl" or (source / MANIFEST_FILE).is_file():
        return "jsonl"
    if source.is_dir() and next(source.rglob(TRANSCRIPTS), None) is not None:
        return "librispeech"
    raise DataError(
        f"{source}: its format cannot be told: there is no {MANIFEST_FILE} and no {TRANSCRIPTS}. "
        f"Name it with --format ({', '.join(READERS)})"
    )


def _matches(utterance: CorpusUtterance, config: CorpusConfig) -> bool:
    unknown = [name for name in config.where if name not in utterance.fields]
    if unknown:
        raise DataError(
            f"{config.source}: where names {unknown[0]!r}, which utterance {utterance.id!r} does not have. "
            f"It has: {', '.join(sorted(utterance.fields)) or 'no fields'}"
        )
    return all(
        utterance.fields[name] in ((wanted,) if isinstance(wanted, str) else wanted)
        for name, wanted in config.where.items()
    )
