"""What a sweep leaves behind: the best trial's bundle and config, and figures of the whole."""

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jasper_ray.config.files import dump_config
from jasper_ray.config.schema import RunConfig
from jasper_ray.storage import object_store
from jasper_ray.training.checkpoint import BUNDLE, find_checkpoints
from tuning.budget import hours_used
from tuning.records import Records, TrialRecord, trial_folder
from tuning.spaces import Space

BEST_FOLDER, CONFIG_FILE = "best", "config.yaml"


@dataclass(frozen=True)
class SweepFigures:
    """A sweep in numbers."""

    num_trials: int
    by_status: dict[str, int]
    hours: float
    """In which trials ran."""
    trial_hours: float
    """Of all trials together, with their start-up."""
    start_to_first_step_s: float | None
    """Median over all attempts: from a trial's start to the first steps that its workers reported."""
    training_share: float | None
    """Share of the cluster's CPUs (or GPUs) times `hours` in which workers trained or evaluated."""


def sweep_figures(records: Records, config: RunConfig, cluster_resources: dict[str, float]) -> SweepFigures:
    """Count and time the trials.

    Args:
        records: All trials.
        config: The run that is varied; says what a worker holds.
        cluster_resources: What the cluster has.
    """
    attempts = [attempt for record in records for attempt in record.attempts]
    starts = [attempt.first_step_s - attempt.started_s for attempt in attempts if attempt.first_step_s is not None]
    hours = hours_used((attempt.started_s, attempt.last_s or attempt.started_s) for attempt in attempts)
    held = 1.0 if config.cluster.use_gpu else config.cluster.cpus_per_worker
    capacity = cluster_resources.get("GPU" if config.cluster.use_gpu else "CPU", 0.0)
    trained_s = sum(record.training_seconds * record.workers * held for record in records)
    counts: dict[str, int] = {}
    for record in records:
        counts[record.status] = counts.get(record.status, 0) + 1
    return SweepFigures(
        num_trials=len(records),
        by_status=counts,
        hours=hours,
        trial_hours=sum(record.seconds for record in records) / 3600,
        start_to_first_step_s=statistics.median(starts) if starts else None,
        training_share=trained_s / (hours * 3600 * capacity) if hours and capacity else None,
    )


def best_config(record: TrialRecord, space: Space, *, output: str) -> RunConfig:
    """The run with a trial's settings, as `jobs.train` takes it; its output is a new folder below the sweep's."""
    run = space.config(record.params)
    folder = object_store.join(output, BEST_FOLDER, "run")
    return run.model_copy(update={"name": f"{run.name}-best", "output": folder})


def export_best(record: TrialRecord, space: Space, *, output: str) -> dict[str, Any]:
    """Write `best/config.yaml` and `best/bundle/`: the weights of the trial's best evaluation.

    Returns:
        Where they lie.
    """
    folder = object_store.join(output, BEST_FOLDER)
    config_uri, bundle_uri = object_store.join(folder, CONFIG_FILE), object_store.join(folder, BUNDLE)
    object_store.write_bytes(config_uri, dump_config(best_config(record, space, output=output)).encode())
    source = _bundle_of(record, trial_folder(output, record.number))
    if source is None:
        return {"best_config": config_uri, "best_bundle": None}
    with tempfile.TemporaryDirectory(prefix="jasper-best-") as name:
        local = object_store.local_path(source) if object_store.is_local(source) else Path(name)
        if not object_store.is_local(source):
            object_store.download_folder(source, local)
        object_store.delete_tree(bundle_uri)
        object_store.upload_folder(local, bundle_uri, last="config.json")
    return {"best_config": config_uri, "best_bundle": bundle_uri}


def _bundle_of(record: TrialRecord, folder: str) -> str | None:
    best = object_store.join(folder, "best")
    steps = sorted(object_store.list_folders(best))
    if steps:
        return object_store.join(best, steps[-1])
    found = find_checkpoints(folder)
    return object_store.join(found[-1], BUNDLE) if found else None
