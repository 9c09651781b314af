"""A language model as a folder: the n-grams, the words they know and what they are over.

`config.json` (what it is), `model.arpa` or `model.binary` (KenLM reads either) and `words.txt` (the lexicon, a word a
line). The folder lies on any store, like a bundle.
"""

import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from jasper_ray.config.strict import StrictModel
from jasper_ray.decoding.ngram import NgramModel, estimate_ngrams
from jasper_ray.errors import DataError, StorageError
from jasper_ray.storage import object_store

FORMAT_VERSION = 1
CONFIG_FILE, ARPA_FILE, BINARY_FILE, WORDS_FILE = "config.json", "model.arpa", "model.binary", "words.txt"
SPACE = "|"
"""How a model of characters writes the space between words."""

Unit = Literal["word", "character"]


class LanguageModelConfig(StrictModel):
    """What a language model folder holds."""

    format_version: int = FORMAT_VERSION
    """Layout of the folder."""
    unit: Unit
    """What an n-gram is made of."""
    order: int
    """Units of the longest n-gram."""
    num_ngrams: tuple[int, ...] = ()
    """How many of each length."""
    num_words: int = 0
    """Words in the lexicon."""
    source: str = ""
    """Where the text came from."""


@dataclass(frozen=True)
class LanguageModel:
    """A language model whose files lie on this machine."""

    config: LanguageModelConfig
    path: Path
    """The n-grams, for KenLM."""
    words: tuple[str, ...]
    """The lexicon."""


def build_language_model(
    lines: Iterable[str],
    uri: str,
    *,
    order: int,
    unit: Unit = "word",
    prune: Sequence[int] = (),
    min_count: int = 1,
    source: str = "",
) -> LanguageModelConfig:
    """Estimate a model from normalised text and write its folder.

    Args:
        lines: A sentence each, in the alphabet of the recogniser; several spaces count as one.
        uri: Folder to write, local or on a store.
        order: Longest n-gram, 1 to 6.
        unit: What it is made of.
        prune: As `estimate_ngrams`.
        min_count: Words that occur less often are unknown to the model and the lexicon.
        source: Said in `config.json`.

    Raises:
        DataError: The text does not do; says why.
        StorageError: The folder cannot be written.
    """
    sentences = [line.split() for line in lines]
    counts = Counter(word for sentence in sentences for word in sentence)
    words = sorted(word for word, count in counts.items() if count >= min_count)
    if not words:
        raise DataError(f"no word occurs {min_count} times in the text of {source or 'the language model'}")
    units = _known_words(sentences, set(words)) if unit == "word" else [list(SPACE.join(s)) for s in sentences]
    try:
        model = estimate_ngrams(units, order=order, prune=prune)
    except ValueError as error:
        raise DataError(f"{source or 'text'}: {error}") from error
    config = LanguageModelConfig(
        unit=unit, order=order, num_ngrams=model.num_ngrams, num_words=len(words), source=source
    )
    with tempfile.TemporaryDirectory(prefix="jasper-lm-") as name:
        _write_arpa(model, Path(name) / ARPA_FILE)
        _write_folder(Path(name), uri, config, words)
    return config


def import_language_model(
    ngrams: Path, words: Sequence[str] | None, uri: str, *, unit: Unit, source: str = ""
) -> LanguageModelConfig:
    """Make a folder of a model that other tools made, such as LibriSpeech's published ones.

    Args:
        ngrams: ARPA or KenLM binary file.
        words: The lexicon; None takes the single words of the ARPA file, as they are written there.
        uri: Folder to write.
        unit: What the n-grams are made of.
        source: Said in `config.json`.

    Raises:
        DataError: The file is neither, or a lexicon is missing.
    """
    binary = is_binary(ngrams)
    counts = () if binary else arpa_counts(ngrams)
    if words is None:
        if binary or unit == "character":
            raise DataError(f"{ngrams} does not list words: give the lexicon, a text file with a word a line")
        words = arpa_words(ngrams)
    config = LanguageModelConfig(
        unit=unit, order=len(counts), num_ngrams=counts, num_words=len(words), source=source or ngrams.name
    )
    with tempfile.TemporaryDirectory(prefix="jasper-lm-") as name:
        shutil.copyfile(ngrams, Path(name) / (BINARY_FILE if binary else ARPA_FILE))
        _write_folder(Path(name), uri, config, words)
    return config


def load_language_model(uri: str, folder: Path | None = None) -> LanguageModel:
    """A language model folder, brought to this machine if it lies elsewhere.

    Args:
        uri: The folder.
        folder: Where to keep what had to be fetched; needed for remote ones only.

    Raises:
        DataError: There is no whole language model at `uri`; says what is missing.
    """
    try:
        raw = json.loads(object_store.read_bytes(object_store.join(uri, CONFIG_FILE)))
        config = LanguageModelConfig.model_validate(raw)
        words = tuple(object_store.read_bytes(object_store.join(uri, WORDS_FILE)).decode().split())
    except StorageError as error:
        raise DataError(
            f"{uri} is not a language model: {error}. Make one with python -m jobs.language_model build"
        ) from error
    except (ValidationError, ValueError) as error:
        raise DataError(f"{uri}/{CONFIG_FILE} does not describe a language model: {error}") from error
    if config.format_version != FORMAT_VERSION:
        raise DataError(f"{uri} has format {config.format_version}, this version reads {FORMAT_VERSION}")
    for name in (BINARY_FILE, ARPA_FILE):
        remote = object_store.join(uri, name)
        if not object_store.exists(remote):
            continue
        if object_store.is_local(uri):
            return LanguageModel(config, object_store.local_path(remote), words)
        local = (folder or Path(tempfile.mkdtemp(prefix="jasper-lm-"))) / name
        local.parent.mkdir(parents=True, exist_ok=True)
        object_store.download_file(remote, local)
        return LanguageModel(config, local, words)
    raise DataError(f"{uri} holds neither {BINARY_FILE} nor {ARPA_FILE}: write the language model again")


def is_binary(path: Path) -> bool:
    """Whether a file is KenLM's binary and not ARPA.

    Raises:
        DataError: It is neither.
    """
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(b"mmap lm http://kheafield.com/code"):
        return True
    if b"\\data\\" in head:
        return False
    raise DataError(f"{path} is neither an ARPA file (it would begin with \\data\\) nor a KenLM binary")


def arpa_counts(path: Path) -> tuple[int, ...]:
    """How many n-grams of each length an ARPA file says that it has."""
    counts = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.startswith("ngram "):
                counts.append(int(line.partition("=")[2]))
            elif line.startswith("\\1-grams"):
                break
    return tuple(counts)


def arpa_words(path: Path) -> list[str]:
    """The words of an ARPA file, without `<s>`, `</s>` and `<unk>`."""
    words = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.startswith("\\1-grams"):
                break
        for line in file:
            if line.startswith("\\"):
                break
            fields = line.split()
            if len(fields) >= 2 and not (fields[1].startswith("<") and fields[1].endswith(">")):
                words.append(fields[1])
    return words


def _known_words(sentences: list[list[str]], words: set[str]) -> list[list[str]]:
    """Sentences cut at words that are too rare: no n-gram may reach over a word that nobody knows."""
    pieces: list[list[str]] = []
    for sentence in sentences:
        piece: list[str] = []
        for word in sentence:
            if word in words:
                piece.append(word)
            else:
                pieces.append(piece)
                piece = []
        pieces.append(piece)
    return [piece for piece in pieces if piece]


def _write_arpa(model: NgramModel, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in model.arpa_lines())


def _write_folder(folder: Path, uri: str, config: LanguageModelConfig, words: Sequence[str]) -> None:
    (folder / WORDS_FILE).write_text("".join(word + "\n" for word in words), encoding="utf-8")
    (folder / CONFIG_FILE).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    object_store.upload_folder(folder, uri, last=CONFIG_FILE)
