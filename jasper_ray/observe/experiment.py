"""A run at Weights & Biases or MLflow: their names for what `log.jsonl` holds, nothing more."""

import hashlib
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jasper_ray.config.schema import RunConfig
from jasper_ray.observe.scalars import scalars, step_of
from jasper_ray.storage import object_store
from jasper_ray.training.report import EventKind, Reporter

logger = logging.getLogger(__name__)

PARAMS_AT_ONCE = 100
"""MLflow's limit."""


def flat_config(config: RunConfig) -> dict[str, Any]:
    """Every knob by its key."""
    found: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), item)
        else:
            found[prefix] = value

    walk("", config.model_dump(mode="json"))
    return found


def run_id(config: RunConfig) -> str:
    """The same for every job of a run, so that a resumed one goes on in the same curve."""
    return hashlib.sha256(object_store.absolute(config.output).encode()).hexdigest()[:16]


class Shielded:
    """A reporter whose failures are told and do not end the run: a server elsewhere may be away.

    Args:
        reporter: Hears every event.
        name: Who it is, in warnings.
    """

    def __init__(self, reporter: Reporter, *, name: str) -> None:
        self._reporter = reporter
        self._name = name

    def report(self, kind: EventKind, values: Mapping[str, object]) -> None:
        """Pass one event on."""
        try:
            self._reporter.report(kind, values)
        except Exception as error:
            logger.warning("%s did not take the event %r of step %d: %s", self._name, kind, step_of(values), error)


class WandbReporter:
    """A run at Weights & Biases, as their client's environment variables say where; WANDB_MODE=offline keeps it here.

    Args:
        config: The run.
        project: Where it belongs.
    """

    def __init__(self, config: RunConfig, *, project: str) -> None:
        import wandb

        folder = str(object_store.local_path(config.output)) if object_store.is_local(config.output) else None
        if folder is not None:
            Path(folder).mkdir(parents=True, exist_ok=True)
        self._run: Any = wandb.init(
            project=project,
            name=config.name,
            id=run_id(config),
            resume="allow",
            config=flat_config(config),
            dir=folder,
        )
        self._run.define_metric("*", step_metric="global_step")

    def report(self, kind: EventKind, values: Mapping[str, object]) -> None:
        """Take one event."""
        figures = dict(scalars(kind, values))
        if figures:
            self._run.log({**figures, "global_step": step_of(values)})
        if kind == "end":
            self._run.finish()


class MlflowReporter:
    """A run of MLflow; the jobs of a resumed run are one run there too.

    Args:
        config: The run; its `logs.mlflow_experiment` is made if there is none.
        uri: Of the tracking server, or a folder.
    """

    def __init__(self, config: RunConfig, *, uri: str) -> None:
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._make_metric = Metric
        self._client = MlflowClient(tracking_uri=uri)
        name, key = config.logs.mlflow_experiment, run_id(config)
        experiment = self._client.get_experiment_by_name(name)
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(name)
        older = self._client.search_runs([experiment_id], filter_string=f"tags.jasper_run = '{key}'", max_results=1)
        if older:
            self._id = older[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
            return
        run = self._client.create_run(experiment_id, run_name=config.name, tags={"jasper_run": key})
        self._id = run.info.run_id
        params = [Param(knob, str(value)[:500]) for knob, value in flat_config(config).items()]
        for first in range(0, len(params), PARAMS_AT_ONCE):
            self._client.log_batch(self._id, params=params[first : first + PARAMS_AT_ONCE])

    def report(self, kind: EventKind, values: Mapping[str, object]) -> None:
        """Take one event."""
        now_ms, step = int(time.time() * 1000), step_of(values)
        metrics = [self._make_metric(name, value, now_ms, step) for name, value in scalars(kind, values)]
        if metrics:  # one request for all
            self._client.log_batch(self._id, metrics=metrics)
        if kind == "end":
            self._client.set_terminated(self._id)
