"""Killed at any point and started again, a preparation gives the bytes of an undisturbed one."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from jasper_ray.config.data import CorpusConfig, PreparationConfig
from jasper_ray.data.preparation import PreparationReport, prepare_dataset, shard_tasks
from jasper_ray.data.readers.registry import read_corpus
from jasper_ray.data.shard_task import make_shard
from jasper_ray.errors import StorageError
from jasper_ray.storage import object_store

CONFIG = PreparationConfig(shard_mb=0.02)
# Six shards: six puts of shards, six of records, report, page, manifest.
NUM_PUTS = 15
KILLED_AT_A_PUT = """
import json, os, signal, sys
from jasper_ray.config.data import CorpusConfig, PreparationConfig
from jasper_ray.data.preparation import prepare_dataset
from jasper_ray.storage import object_store

corpus, target, fatal, after = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "after"
puts = 0

def fatal_at(put):
    def counted(*arguments):
        global puts
        puts += 1
        if puts == fatal and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        put(*arguments)
        if puts == fatal:
            os.kill(os.getpid(), signal.SIGKILL)
    return counted

object_store.upload_file = fatal_at(object_store.upload_file)
object_store.write_bytes = fatal_at(object_store.write_bytes)
prepare_dataset([CorpusConfig(source=corpus)], target, alphabet="ab ", config=PreparationConfig(shard_mb=0.02))
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve utterances, two to a shard, one of them unusable."""
    folder = tmp_path_factory.mktemp("corpus")
    rows = []
    for number in range(12):
        buffer = io.BytesIO()
        noise = np.random.default_rng(number).normal(scale=0.1, size=5000 + 10 * number)
        soundfile.write(buffer, noise, 16000, format="WAV")
        (folder / f"{number}.wav").write_bytes(b"x" * 11000 if number == 5 else buffer.getvalue())
        rows.append({"audio": f"{number}.wav", "text": "ab" * (1 + number % 3), "id": f"u{number}"})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def prepare(corpus: Path, target: Path, config: PreparationConfig = CONFIG) -> PreparationReport:
    return prepare_dataset([CorpusConfig(source=str(corpus))], str(target), alphabet="ab ", config=config)


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    target = tmp_path_factory.mktemp("undisturbed")
    assert prepare(corpus, target).num_shards == 6
    return tree(target)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("fatal", "moment", "shards_kept"),
    [(1, "before", 0), (1, "after", 0), (4, "after", 2), (9, "before", 4), (13, "after", 6), (15, "before", 6)],
)
def test_killed_at_a_put_and_started_again_it_gives_the_bytes_of_an_undisturbed_run(
    corpus: Path, undisturbed: dict[str, bytes], tmp_path: Path, fatal: int, moment: str, shards_kept: int
) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AT_A_PUT, corpus, tmp_path / "d", str(fatal), moment], timeout=300
    )
    assert killed.returncode == -9
    assert not (tmp_path / "d" / "manifest.parquet").exists()
    kept = {path: path.stat().st_mtime_ns for path in sorted((tmp_path / "d" / "shards").glob("*"))[:shards_kept]}
    report = prepare(corpus, tmp_path / "d")
    assert report.num_shards_found == shards_kept == len(kept)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert tree(tmp_path / "d") == undisturbed


def test_killed_behind_the_manifest_it_is_complete_and_the_next_run_tidies_up(
    corpus: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_AT_A_PUT, corpus, tmp_path / "d", str(NUM_PUTS), "after"], timeout=300
    )
    assert killed.returncode == -9 and (tmp_path / "d" / "parts").exists()
    assert prepare(corpus, tmp_path / "d").reused
    assert tree(tmp_path / "d") == undisturbed


def test_shards_made_with_other_options_or_from_another_corpus_are_made_again(
    corpus: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    other = CONFIG.model_copy(update={"max_characters_per_s": 50.0, "shard_mb": 0.01})
    listing = read_corpus(CorpusConfig(source=str(corpus)))
    for task in shard_tasks(listing, str(tmp_path), alphabet="ab ", config=other):
        make_shard(task, num_threads=1)
    assert len(list((tmp_path / "shards").iterdir())) == 11  # of which the other options have no use for five
    report = prepare(corpus, tmp_path)
    assert report.num_shards_found == 0
    assert tree(tmp_path) == undisturbed


def test_a_record_that_cannot_be_read_counts_for_nothing(
    corpus: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    for number, content in enumerate((b"", b"{}", b'{"number": 2}', b"\xff")):
        (tmp_path / "parts").mkdir(exist_ok=True)
        (tmp_path / "parts" / f"0000{number}.json").write_bytes(content)
    assert prepare(corpus, tmp_path).num_shards_found == 0
    assert tree(tmp_path) == undisturbed


def test_two_preparations_of_one_target_at_once_do_not_disturb_each_other(
    corpus: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    never = [sys.executable, "-c", KILLED_AT_A_PUT, corpus, tmp_path / "d", "999", "after"]
    both = [subprocess.Popen(never) for _ in range(2)]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    assert tree(tmp_path / "d") == undisturbed


def test_a_shard_that_is_done_after_the_dataset_leaves_nothing_behind(
    corpus: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    listing = read_corpus(CorpusConfig(source=str(corpus)))
    *_, late = shard_tasks(listing, str(tmp_path), alphabet="ab ", config=CONFIG)
    prepare(corpus, tmp_path)
    assert make_shard(late, num_threads=1).rows
    assert tree(tmp_path) == undisturbed


def test_a_store_that_does_not_give_a_record_is_an_error_and_no_reason_to_start_again(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "00000.json").write_text("{}")

    def fail(uri: str) -> bytes:
        raise StorageError(f"{uri}: the store is on strike")

    monkeypatch.setattr(object_store, "read_bytes", fail)
    with pytest.raises(StorageError, match=r"00000\.json: the store is on strike"):
        prepare(corpus, tmp_path)
