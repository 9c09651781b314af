import threading
from pathlib import Path

import pytest
from tones import run_workers, tone_config, write_corpus

from jasper_ray.config.data import CorpusConfig
from jasper_ray.config.schema import RunConfig
from jasper_ray.data.preparation import prepare_dataset
from jasper_ray.errors import ResumeError
from jasper_ray.storage import object_store
from jasper_ray.training.assembly import plan_fingerprint, read_datasets
from jasper_ray.training.report import read_log

NUM_SHARDS = 5
WINDOW = ["data.window_shards=4", "training.epochs=3", "batching.utterances_per_microbatch=2"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datasets of one shard each, which a run reads as one, and one to evaluate."""
    root = tmp_path_factory.mktemp("shards")
    for name, count in [*((f"train{number}", 8) for number in range(NUM_SHARDS)), ("evaluation", 4)]:
        corpus = write_corpus(root / f"{name}-corpus", count, seed=count + NUM_SHARDS)
        prepare_dataset([CorpusConfig(source=str(corpus), format="jsonl")], str(root / name), alphabet="ab")
    return root


def windowed_config(root: Path, output: Path, *overrides: str) -> RunConfig:
    train = ", ".join(f"{{path: {root}/train{number}}}" for number in range(NUM_SHARDS))
    return tone_config(root, output, f"data.train=[{train}]", *WINDOW, *overrides)


def utterances_by_step(config: RunConfig) -> dict[int, list[list[str]]]:
    return {e["global_step"]: e["microbatches"] for e in read_log(config.output) if e["event"] == "utterances"}


def test_a_windowed_run_sees_every_utterance_once_and_goes_on_in_mid_epoch(shards: Path, tmp_path: Path) -> None:
    whole = windowed_config(shards, tmp_path / "whole")
    run_workers(whole, 1)
    expected = utterances_by_step(whole)
    seen = [name for microbatches in expected.values() for ids in microbatches for name in ids]
    assert sorted(seen) == sorted(3 * list(set(seen))) and len(seen) == 3 * 8 * NUM_SHARDS
    stopped = windowed_config(shards, tmp_path / "stopped", "training.stop_after_steps=4")
    run_workers(stopped, 1)
    again = windowed_config(shards, tmp_path / "stopped")
    run_workers(again, 1)
    assert utterances_by_step(again) == expected
    with pytest.raises(ResumeError, match=r"'window_shards': 4.*'window_shards': 2"):
        run_workers(windowed_config(shards, tmp_path / "whole", "data.window_shards=2"), 1)


def test_workers_that_read_from_a_store_keep_no_more_than_the_window_on_the_disk(
    shards: Path, tmp_path: Path, s3_bucket: str
) -> None:
    remote = f"{s3_bucket}/{tmp_path.name}"
    for number in range(NUM_SHARDS):
        object_store.upload_folder(shards / f"train{number}", f"{remote}/train{number}", last="manifest.parquet")
    train = ", ".join(f"{{path: '{remote}/train{number}'}}" for number in range(NUM_SHARDS))
    cache = tmp_path / "cache"
    config = windowed_config(
        shards, tmp_path / "run", f"data.train=[{train}]", f"data.cache_dir={cache}", "data.window_shards=2"
    )
    most, is_done = [0], threading.Event()

    def watch() -> None:
        while not is_done.wait(0.002):
            # Those on their way are written beside, under hidden names.
            names = {path.name.split(".shard")[0].lstrip(".") for path in cache.glob("*.shard*")}
            names |= {path.name.split(".shard")[0].lstrip(".") for path in cache.glob(".*.partial")}
            most[0] = max(most[0], len(names))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run_workers(config, 2)
    finally:
        is_done.set()
        watcher.join()
    assert most[0] == 2
    seen = [name for microbatches in utterances_by_step(config).values() for ids in microbatches for name in ids]
    assert sorted(seen) == sorted(3 * list(set(seen))) and len(seen) == 3 * 8 * NUM_SHARDS


def test_shards_decide_the_order_only_where_there_is_a_window(shards: Path, tmp_path: Path) -> None:
    config = windowed_config(shards, tmp_path)
    manifest = read_datasets(config.data.train, key="data.train")
    whole = config.model_copy(update={"data": config.data.model_copy(update={"window_shards": None})})
    assert plan_fingerprint(whole, manifest) == manifest.fingerprint
    assert plan_fingerprint(config, manifest) != manifest.fingerprint
