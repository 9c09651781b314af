"""A small run with everything on an object store."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tones import CONFIG_FILE

from jasper_ray.cluster.trainer import connected_to_ray, prepare_missing_datasets, run_training
from jasper_ray.config.data import LoaderConfig
from jasper_ray.config.files import load_run_config
from jasper_ray.data.manifest import read_manifest
from jasper_ray.model.bundle import load_bundle
from jasper_ray.storage import object_store
from jasper_ray.training.checkpoint import find_checkpoints
from jasper_ray.training.evaluation_pieces import evaluate_bundle
from jasper_ray.training.report import read_log


class Silent:
    def report(self, kind: str, values: Mapping[str, object]) -> None:
        pass


def prepare_and_train(corpus: str, root: str, cache: Path) -> dict[str, Any]:
    """What `jobs.prepare`, `jobs.train` and `jobs.evaluate` do; datasets, checkpoints, log and bundle under `root`.

    Args:
        corpus: Folder of the corpora, on the store as well.
        root: Where everything comes.
        cache: A folder of this machine.
    """
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
        # Without Ray's own, and without the time and machine in the names of TensorBoard's files.
        "files": [name.partition("events.out")[0] for name in object_store.list_files(root) if "ray_train" not in name],
    }
