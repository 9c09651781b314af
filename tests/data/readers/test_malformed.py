"""What is wrong with a corpus, in any format, is said with file, line and reason, and no dataset comes out."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from foreign_formats import FORMATS, Spoken, librispeech, write_tar
from noise import noise

from jasper_ray.config.data import CorpusConfig
from jasper_ray.config.speech import ENGLISH_ALPHABET
from jasper_ray.data.preparation import prepare_dataset
from jasper_ray.errors import DataError

Damage = Callable[[Path], object]
"""Does something to a corpus in its folder."""


def in_line(name: str, number: int, old: str, new: str) -> Damage:
    """Replace text in a line, counted from 1, of a file."""

    def damage(folder: Path) -> None:
        (file,) = folder.rglob(name)
        packed = file.suffix == ".gz"
        text = (gzip.decompress(file.read_bytes()) if packed else file.read_bytes()).decode()
        lines = text.split("\n")
        assert old in lines[number - 1], lines[number - 1]
        lines[number - 1] = lines[number - 1].replace(old, new)
        content = "\n".join(lines).encode()
        file.write_bytes(gzip.compress(content) if packed else content)

    return damage


def gone(pattern: str) -> Damage:
    """Delete the first file of such a name."""
    return lambda folder: min(folder.rglob(pattern)).unlink()


def short(pattern: str, num_bytes: int) -> Damage:
    """Take bytes off the end of a file."""

    def damage(folder: Path) -> None:
        file = min(folder.rglob(pattern))
        file.write_bytes(file.read_bytes()[:-num_bytes])

    return damage


def column(name: str, values: list[object] | None) -> Damage:
    """Give a column of the parquet file other values, or take it away."""

    def damage(folder: Path) -> None:
        (file,) = folder.rglob("*.parquet")
        rows = pq.read_table(file).to_pylist()
        changed = [{key: row[key] for key in row if key != name} for row in rows]
        if values is not None:
            changed = [row | {name: value} for row, value in zip(changed, values, strict=True)]
        pq.write_table(type(pq.read_table(file)).from_pylist(changed), file)

    return damage


def tar_of(folder: Path, *names: str) -> Path:
    """One more tar, of files that hold a brace."""
    return write_tar(folder / "z.tar", [(name, b"{") for name in names])


CASES: dict[str, list[tuple[Damage, str]]] = {
    "librispeech": [
        (in_line("1-2.trans.txt", 2, "1-2-0001 WELL", "1-2-0001"), r"1-2\.trans\.txt, line 2: must be an id, a space"),
        (
            in_line("1-2.trans.txt", 2, "0001", "0000"),
            r"1-2\.trans\.txt, line 2: 1-2-0000 comes twice",
        ),
        (gone("1-2-0001.flac"), r"1-2\.trans\.txt, line 2: 1-2-0001: audio .*1-2-0001\.flac cannot be read: No such"),
    ],
    "librispeech-tar": [
        (short("a.tar", 8000), r"a\.tar: cannot be read as a tar"),
    ],
    "jsonl": [
        (in_line("manifest.jsonl", 2, "{", ""), r"manifest\.jsonl, line 2: not JSON"),
        (
            in_line("manifest.jsonl", 2, '"text"', '"words"'),
            r"manifest\.jsonl, line 2: 'text' must be a text, got None",
        ),
        (gone("1-2-0001.flac"), r"manifest\.jsonl, line 2: audio .*1-2-0001\.flac cannot be read: No such file"),
    ],
    "nvidia": [
        (in_line("*.json", 24, ",", ""), r"librispeech-wav\.json, line 25: not JSON"),
        (in_line("*.json", 24, '"transcript"', '"text"'), r"librispeech-wav\.json, line 23: 'transcript' must be"),
        (gone("1-2-0000-0.9.wav"), r"librispeech-wav\.json, line 2: audio wav/1-2-0000-0\.9\.wav is neither below"),
    ],
    "nemo": [
        (in_line("train.json", 3, "}", ""), r"train\.json, line 3: not JSON"),
        (in_line("train.json", 2, '"text"', '"words"'), r"train\.json, line 2: 'text' must be a text"),
        (gone("3-4-0000.flac"), r"train\.json, line 3: audio .*3-4-0000\.flac cannot be read: No such file"),
    ],
    "nemo-tarred": [
        (
            short("audio_0.tar", 9000),
            r"manifest\.json, line 1: .*audio_0\.tar cannot be read: unexpected end",
        ),
        (gone("audio_1.tar"), r"tarred_audio_manifest\.json, line 3: .*audio_1\.tar cannot be read: .*No such file"),
        (in_line("*.json", 2, "3-4-0000", "3-4-0009"), r"line 2: 3-4-0009\.flac is not in .*audio_0\.tar"),
    ],
    "kaldi-segments": [
        (
            in_line("segments", 2, " rec-1 ", " rec-9 "),
            r"segments, line 2: 1-2-0001 is cut from rec-9, which",
        ),
        (in_line("segments", 2, "rec-1 ", ""), r"segments, line 2: must be an utterance, a recording, its start"),
        (in_line("text", 3, " GOOD", ""), r"text, line 3: must be an id, a space and a value"),
        (gone("rec-3.wav"), r"wav\.scp, line 2: rec-3: audio .*rec-3\.wav cannot be read: No such file"),
    ],
    "kaldi-files": [
        (in_line("wav.scp", 2, ".flac", ".flac |"), r"wav\.scp, line 2: 1-2-0001 is the command"),
        (gone("3-4-0000.flac"), r"wav\.scp, line 3: 3-4-0000: audio .*3-4-0000\.flac cannot be read: No such file"),
    ],
    "huggingface": [
        (column("audio", None), r"train-00000-of-00001\.parquet: has no column 'audio', a struct .*it has: text"),
        (column("text", None), r"train-00000-of-00001\.parquet: has no text column"),
        (column("text", ["a", "b", None]), r"train-00000-of-00001\.parquet, row 2: 'text' must be a text, got None"),
        (
            column("audio", [{"bytes": None, "path": "x.flac"}] * 3),
            r"parquet, row 0: .*x\.flac cannot be read",
        ),
        (short("*.parquet", 9), r"train-00000-of-00001\.parquet: cannot be read as parquet"),
    ],
    "lhotse": [
        (in_line("cuts.jsonl.gz", 2, "{", ""), r"cuts\.jsonl\.gz, line 2: not JSON"),
        (
            in_line("cuts.jsonl.gz", 2, '"text"', '"words"'),
            r"cuts\.jsonl\.gz, line 2: 'text' of supervision '1-2-0",
        ),
        (gone("1-2-0001.flac"), r"cuts\.jsonl\.gz, line 2: audio .*1-2-0001\.flac cannot be read: No such file"),
        (short("cuts.jsonl.gz", 20), r"cuts\.jsonl\.gz: cannot be read around line \d"),
    ],
    "lhotse-pieces": [
        (
            in_line("cuts.jsonl", 2, '"MonoCut"', '"MixedCut"'),
            r"cuts\.jsonl, line 2: is a MixedCut; only MonoCut",
        ),
        (
            in_line("cuts.jsonl", 2, '"start": 0.0', '"start": "0"'),
            r"cuts\.jsonl, line 2: 'start' of '1-2-0001'",
        ),
    ],
    "webdataset": [
        (short("shard-000000.tar", 12_000), r"shard-000000\.tar: cannot be read as a tar"),
        (lambda folder: tar_of(folder, "7.flac", "7.json"), r"z\.tar, key 7: \.json is not JSON"),
        (lambda folder: tar_of(folder, "7.flac"), r"z\.tar, key 7: has no text"),
        (lambda folder: tar_of(folder, "7.txt"), r"z\.tar, key 7: must have one member of audio"),
    ],
    "webdataset-gzipped": [
        (short("shard-000001.tar.gz", 2000), r"shard-000001\.tar\.gz: cannot be read as a tar"),
    ],
    "csv": [
        (in_line("train.csv", 2, ",", ""), r"train\.csv, line 2: must have 3 columns as line 1 has, got 1"),
        (in_line("train.csv", 1, "transcript", "text"), r"train\.csv, line 1: lacks transcript"),
        (gone("1-2-0001.flac"), r"train\.csv, line 3: audio .*1-2-0001\.flac cannot be read: No such file"),
    ],
    "common-voice": [
        (in_line("train.tsv", 3, "\t", " "), r"train\.tsv, line 3: must have 4 columns as line 1 has, got 1"),
        (in_line("train.tsv", 1, "sentence", "text"), r"train\.tsv, line 1: lacks sentence"),
        (gone("1-2-0001.flac"), r"train\.tsv, line 3: audio .*clips/1-2-0001\.flac cannot be read: No such file"),
    ],
}


def write(name: str, folder: Path) -> Path:
    texts = {"1-2-0000": "HELLO", "1-2-0001": "WELL", "3-4-0000": "GOOD"}
    spoken = [Spoken(key, text, key[0], noise(number)) for number, (key, text) in enumerate(texts.items())]
    folder.mkdir()
    return (librispeech if name == "librispeech" else FORMATS[name].write)(folder, spoken)


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        pytest.param(name, *case, id=f"{name}-{number}")
        for name, cases in CASES.items()
        for number, case in enumerate(cases)
    ],
)
def test_what_is_wrong_with_a_corpus_is_said_with_place_and_reason(
    tmp_path: Path, name: str, damage: Damage, reason: str
) -> None:
    source = write(name, tmp_path / "corpus")
    kind = "librispeech" if name == "librispeech" else FORMATS[name].format
    damage(tmp_path / "corpus")
    with pytest.raises(DataError, match=reason):
        prepare_dataset(
            [CorpusConfig(source=str(source), format=kind)], str(tmp_path / "dataset"), alphabet=ENGLISH_ALPHABET
        )
    assert not (tmp_path / "dataset" / "manifest.parquet").exists()


def test_every_format_has_a_malformed_example() -> None:
    assert CASES.keys() == {"librispeech", *FORMATS}
