"""What runs for each trial: a whole Ray Train run, whose evaluations go to Ray Tune."""

import logging
import time
from collections.abc import Mapping
from typing import Any

from ray import tune

from jasper_ray.cluster.trainer import run_training
from jasper_ray.config.schema import RunConfig
from jasper_ray.errors import JasperRayError, NonFiniteError, WorkersLostError
from jasper_ray.training.checkpoint import find_checkpoints, step_of
from jasper_ray.training.report import EventKind, read_log


def trial_config(run: RunConfig, *, number: int, output: str) -> RunConfig:
    """A trial's run: its own folder, every best bundle kept, failures left to the sweep, which tells them apart."""
    checkpoint = run.checkpoint.model_copy(update={"best_from_epoch": 1})
    cluster = run.cluster.model_copy(update={"max_failures": 0})
    changes = {"name": f"{run.name}-{number:04d}", "output": output, "resume": "auto"}
    return run.model_copy(update={**changes, "checkpoint": checkpoint, "cluster": cluster})


def run_trial(settings: Mapping[str, Any]) -> None:
    """Train to the end, or to what stops it; the last report says which.

    Args:
        settings: `run`, a `RunConfig` as JSON.

    Raises:
        WorkersLostError: The cluster took workers away: Ray Tune starts the trial again, from its checkpoint.
    """
    config = RunConfig.model_validate_json(settings["run"])
    logging.getLogger("jasper_ray").setLevel(logging.WARNING)
    reporter = TuneReporter()
    tune.report({"kind": "attempt", "time_s": time.time()})
    _repeat_evaluations(config, reporter)
    try:
        run_training(config, reporter)
    except NonFiniteError as error:
        reporter.end("diverged", str(error))
    except WorkersLostError:
        raise
    except JasperRayError as error:
        reporter.end("failed", str(error))
    else:
        reporter.end("finished", "")


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
            self._last = {name: values[name] for name in ("wer", "loss", "epoch", "global_step")}
            tune.report({"kind": "evaluation", "time_s": now_s, **self._last})

    def end(self, status: str, error: str) -> None:
        """Say how it ended."""
        tune.report({"kind": "end", "time_s": time.time(), "status": status, "error": error, **self._last})
