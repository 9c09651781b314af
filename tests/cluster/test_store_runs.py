"""Everything of a run on a real S3 server, and the same through a proxy that spoils requests."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from fault_proxy import Faults, fault_proxy
from store_runs import prepare_and_train
from tones import write_corpus

from jasper_ray.storage import object_store

pytestmark = pytest.mark.ray
OUTSIDE = {"JASPER_STORE_REQUEST_TIMEOUT_S": "2", "JASPER_STORE_FIRST_PAUSE_S": "0.05", "JASPER_STORE_ATTEMPTS": "8"}


@pytest.fixture(scope="module")
def corpus(s3_bucket: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Also on the store."""
    folder = tmp_path_factory.mktemp("corpus")
    for name, count, seed in (("train", 40, 1), ("evaluation", 12, 2)):
        write_corpus(folder / name, count, seed=seed)
        for file in object_store.list_files(str(folder / name)):
            object_store.upload_file(folder / name / file, f"{s3_bucket}/corpora/{name}/{file}")
    return f"{s3_bucket}/corpora"


@pytest.fixture(scope="module")
def direct(s3_bucket: str, corpus: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The run without faults."""
    yield prepare_and_train(corpus, f"{s3_bucket}/direct", tmp_path_factory.mktemp("cache"))
    assert not ray.is_initialized()


def test_corpus_to_error_rate_with_everything_on_an_object_store(direct: dict[str, Any]) -> None:
    figures = direct["figures"]
    assert figures["finished"] and figures["global_step"] == 12 and direct["checkpoints"] == ["00000008", "00000012"]
    assert direct["evaluated"]["wer"] == figures["wer"]
    assert direct["evaluated"]["loss"] == pytest.approx(figures["loss"], rel=1e-5)
    assert {"train/manifest.parquet", "run/bundle/model.safetensors", "run/log.jsonl"} <= set(direct["files"])


@pytest.mark.slow
def test_a_run_through_faults_is_the_same_run(
    direct: dict[str, Any], s3_bucket: str, corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, with 5 % of the bodies cut, 10 % of the requests refused, 1 % never answered."""
    port = int(os.environ["AWS_ENDPOINT_URL"].rpartition(":")[2])
    for name, value in OUTSIDE.items():
        monkeypatch.setenv(name, value)
    with fault_proxy(port, Faults(cut=0.05, refuse=0.10, hang=0.01), seed=3) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        spoiled = prepare_and_train(corpus, f"{s3_bucket}/spoiled", tmp_path)
        counts = dict(proxy.counts)
    assert counts["cut"] and counts["refuse"] and counts["requests"] > 100
    assert spoiled["losses"] == direct["losses"]
    assert spoiled["utterances"] == direct["utterances"]
    assert spoiled["files"] == direct["files"] and spoiled["checkpoints"] == direct["checkpoints"]
    assert spoiled["evaluated"] == pytest.approx(direct["evaluated"], rel=1e-6)
