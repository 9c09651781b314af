"""Everything of a run on a real S3 server, and the same through a proxy that spoils requests."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from fault_proxy import Faults, fault_proxy
from tones import CONFIG_FILE, write_corpus

from jasper_ray.cluster.trainer import connected_to_ray, prepare_missing_datasets, run_training
from jasper_ray.config.data import LoaderConfig
from jasper_ray.config.files import load_run_config
from jasper_ray.data.manifest import read_manifest
from jasper_ray.model.bundle import load_bundle
from jasper_ray.storage import object_store
from jasper_ray.training.checkpoint import find_checkpoints
from jasper_ray.training.report import read_log
from jobs.evaluate import evaluate_bundle

pytestmark = pytest.mark.ray
OUTSIDE = {"JASPER_STORE_REQUEST_TIMEOUT_S": "2", "JASPER_STORE_FIRST_PAUSE_S": "0.05", "JASPER_STORE_ATTEMPTS": "8"}


class Silent:
    def report(self, kind: str, values: Mapping[str, object]) -> None:
        pass


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder / "train", 40, seed=1)
    write_corpus(folder / "evaluation", 12, seed=2)
    return folder


def prepare_and_train(corpus: Path, root: str, cache: Path) -> dict[str, Any]:
    """What `jobs.prepare`, `jobs.train` and `jobs.evaluate` do; datasets, checkpoints, log and bundle under `root`."""
    overrides = [
        *(
            f"data.{name}=[{{path: '{root}/{name}', corpora: [{{source: {corpus}/{name}}}]}}]"
            for name in ("train", "evaluation")
        ),
        f"data.cache_dir={cache}",
        f"output={root}/run",
        "cluster={num_workers: 2, cpus_per_worker: 0.5}",
        "training.epochs=3",
    ]
    config = load_run_config(CONFIG_FILE, overrides)
    with connected_to_ray(num_cpus=2):
        prepare_missing_datasets(config)
        figures = run_training(config, Silent())
    bundle = load_bundle(f"{root}/run/bundle")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(cache))  # jobs.evaluate keeps shards below it
        evaluated = evaluate_bundle(
            bundle,
            read_manifest(f"{root}/evaluation"),
            loader=LoaderConfig(num_threads=1),
            device=torch.device("cpu"),
            seconds_per_batch=160,
        ).figures()
    return {
        "figures": figures,
        "evaluated": evaluated,
        "losses": [(e["global_step"], e["loss"]) for e in read_log(f"{root}/run") if e["event"] == "progress"],
        "utterances": [e["microbatches"] for e in read_log(f"{root}/run") if e["event"] == "utterances"],
        "checkpoints": [uri[-8:] for uri in find_checkpoints(f"{root}/run")],
        "files": [name for name in object_store.list_files(root) if "ray_train" not in name],
    }


@pytest.fixture(scope="module")
def direct(s3_bucket: str, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
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
    direct: dict[str, Any], s3_bucket: str, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
