"""What runs for each trial: a whole Ray Train run, whose evaluations go to Ray Tune."""

import logging
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune

from jasper_ray.cluster.trainer import run_training, run_training_here
from jasper_ray.config.schema import RunConfig
from jasper_ray.errors import CapacityError, JasperRayError, NonFiniteError, StorageError, WorkersLostError
from jasper_ray.storage import object_store
from jasper_ray.training.checkpoint import CHECKPOINTS, CHECKSUMS_FILE, find_checkpoints, step_of
from jasper_ray.training.report import EventKind, read_log

INFRASTRUCTURE = (WorkersLostError, CapacityError, StorageError)
"""What is no fault of a trial's settings: it is taken up again, from its checkpoint."""
WAIT_FOR_ROOM_S = 24 * 3600.0
"""How long a trial's workers wait to be placed. A trial is given out where there is room, but after the loss of a node
it may have to wait for another trial to end; workers are placed all together or not at all: nothing waits in a ring."""


def trial_config(run: RunConfig, *, number: int, output: str, until_epoch: int | None = None) -> RunConfig:
    """A trial's run: its own folder, every best bundle kept, failures left to the sweep, which tells them apart."""
    checkpoint = run.checkpoint.model_copy(update={"best_from_epoch": 1})
    cluster = run.cluster.model_copy(update={"max_failures": 0, "startup_timeout_s": WAIT_FOR_ROOM_S})
    cluster = cluster.model_copy(update={"num_workers": run.cluster.min_workers})
    changes: dict[str, Any] = {"name": f"{run.name}-{number:04d}", "output": output, "resume": "auto"}
    if until_epoch is not None:
        changes["training"] = run.training.model_copy(update={"stop_after_epochs": until_epoch})
    return run.model_copy(update={**changes, "checkpoint": checkpoint, "cluster": cluster})


def run_trial(settings: Mapping[str, Any]) -> None:
    """Train to the end, or to what stops it; the last report says which.

    Args:
        settings: `run`, a `RunConfig` as JSON, and `parent`, the folder of a trial to go on from, or None.

    Raises:
        JasperRayError: Workers, nodes or the store were lost: Ray Tune starts the trial again, from its checkpoint.
    """
    config = RunConfig.model_validate_json(settings["run"])
    logging.getLogger("jasper_ray").setLevel(logging.WARNING)
    reporter = TuneReporter()
    tune.report({"kind": "attempt", "time_s": time.time()})
    try:
        if settings["parent"]:
            _inherit(settings["parent"], config.output)
        _repeat_evaluations(config, reporter)
        train = run_training_here if config.cluster.max_workers == 1 else run_training
        train(config, reporter)
    except NonFiniteError as error:
        reporter.end("diverged", str(error))
    except INFRASTRUCTURE as error:
        tune.report({"kind": "lost", "time_s": time.time(), "error": str(error)})
        raise
    except JasperRayError as error:
        reporter.end("failed", str(error))
    else:
        reporter.end("finished", "")


def _inherit(parent: str, output: str) -> None:
    """Take over a trial's newest checkpoint, unless this one has come further already."""
    if find_checkpoints(output):
        return
    source = find_checkpoints(parent)[-1]
    target = object_store.join(output, CHECKPOINTS, source.rstrip("/").rpartition("/")[2])
    with tempfile.TemporaryDirectory(prefix="jasper-parent-") as name:
        folder = object_store.local_path(source) if object_store.is_local(source) else Path(name)
        if not object_store.is_local(source):
            object_store.download_folder(source, folder)
        object_store.delete_tree(target)
        object_store.upload_folder(folder, target, last=CHECKSUMS_FILE)


def _repeat_evaluations(config: RunConfig, reporter: "TuneReporter") -> None:
    """Evaluations up to the checkpoint that the run goes on from: the scheduler may not have heard of them."""
    found = find_checkpoints(config.output)
    newest = step_of(found[-1]) if found else 0
    for event in read_log(config.output):
        step = event.get("global_step")
        if event["event"] == "evaluation" and isinstance(step, int) and step <= newest:
            reporter.report("evaluation", event)


class TuneReporter:
    """Passes a run's evaluations to Ray Tune, and when it was ready and made its first steps."""

    def __init__(self) -> None:
        self._last: dict[str, Any] = {}
        self._has_progressed = False

    def report(self, kind: EventKind, values: Mapping[str, object]) -> None:
        """Take one event."""
        now_s = time.time()
        if kind == "start":
            figures = {name: values[name] for name in ("num_parameters", "workers")}
            tune.report({"kind": "start", "time_s": now_s, **figures})
        elif kind == "progress" and not self._has_progressed:
            self._has_progressed = True
            tune.report({"kind": "progress", "time_s": now_s})
        elif kind == "evaluation":
            self._last = {name: values[name] for name in ("wer", "loss", "epoch", "global_step", "num_words")}
            tune.report({"kind": "evaluation", "time_s": now_s, **self._last})

    def end(self, status: str, error: str) -> None:
        """Say how it ended."""
        tune.report({"kind": "end", "time_s": time.time(), "status": status, "error": error, **self._last})
