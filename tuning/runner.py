"""A sweep: from its space to Ray Tune and back to a folder with results, continued by the same command."""

import json
import logging
import math
import os
import time
from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import ValidationError
from ray import tune

from jasper_ray.cluster.trainer import check_run
from jasper_ray.config.files import dump_config
from jasper_ray.config.schema import RunConfig
from jasper_ray.errors import ConfigError
from jasper_ray.storage import object_store
from tuning.budget import BudgetStopper, check_budget
from tuning.capacity import room_on_the_cluster, trial_resources
from tuning.feed import Audience, TrialFeed
from tuning.records import Records, TrialRecord, trial_folder
from tuning.scheduling import make_scheduler
from tuning.search import Search, open_search
from tuning.settings import SweepConfig
from tuning.spaces import Space
from tuning.trial import run_trial, trial_config

logger = logging.getLogger(__name__)

SWEEP_FILE, RUN_FILE = "sweep.yaml", "run.yaml"
MAY_CHANGE = ("budget", "max_concurrent", "max_retries")
"""What the same sweep may be continued with."""
TUNE_VARIABLES = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the job as it ends the others
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_FORCE_TRIAL_CLEANUP_S": "20",  # a stopped trial gives its CPUs and GPUs back, at the latest, after
    "RAY_AIR_NEW_OUTPUT": "0",  # its table of the experiment; ours is in tuning/display.py
    "TUNE_MAX_PENDING_TRIALS_PG": "10000",  # else one trial starts after the other; the feed gives as many as fit
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "86400",  # trials wait for room by design
}


def sweep_folder(config: RunConfig, sweep: SweepConfig) -> str:
    """Where everything of a sweep lies: below the run's own output."""
    return object_store.join(config.output, "sweeps", sweep.name)


def check_sweep(config: RunConfig, sweep: SweepConfig, space: Space) -> None:
    """Look at everything that can be wrong with a sweep before a cluster is asked.

    Raises:
        ConfigError: Settings do not go together; says which and what to do.
    """
    check_budget(sweep.budget, config.cluster)
    if not config.data.evaluation:
        raise ConfigError("data.evaluation names no dataset: a sweep compares word error rates on it")
    epochs = config.training.epochs
    open_search(sweep, space, epochs=epochs)
    make_scheduler(sweep, epochs=epochs, records=Records(""))


def run_sweep(config: RunConfig, sweep: SweepConfig, space: Space, records: Records, audience: Audience) -> None:
    """Run, or go on with, a sweep on the cluster that this process is connected to.

    Args:
        config: The run that is varied, with absolute paths.
        sweep: How.
        space: Its space over this run.
        records: Of the sweep's folder; filled here.
        audience: Is shown every change.

    Raises:
        JasperRayError: Data, cluster or settings do not allow it; says which, before a trial starts.
    """
    check_sweep(config, sweep, space)
    output = records.output
    records.load()
    search = open_search(sweep, space, epochs=config.training.epochs)
    scheduler = make_scheduler(sweep, epochs=config.training.epochs, records=records)
    check_run(config)
    _settle(output, config, sweep)
    feed = TrialFeed(
        records,
        search,
        settings_of=lambda record: trial_settings(space, record, output),
        room=lambda: min(room_on_the_cluster(config.cluster), sweep.max_concurrent or 10**9),
        num_trials=number_of_trials(sweep, search),
        audience=audience,
    )
    os.environ.update(TUNE_VARIABLES)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    tuner = tune.Tuner(
        tune.with_resources(run_trial, trial_resources(config.cluster)),
        tune_config=tune.TuneConfig(
            search_alg=feed,
            scheduler=scheduler,
            num_samples=-1,
            reuse_actors=False,
            trial_name_creator=lambda trial: f"trial_{trial.trial_id}",
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            # Ray's own records of this process's part of the sweep; ours lie beside them and outlive it.
            name=f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}",
            storage_path=object_store.join(output, "ray_tune"),
            failure_config=tune.FailureConfig(max_failures=sweep.max_retries),
            stop=BudgetStopper(sweep.budget, records, feed),
            verbose=0,
        ),
    )
    tuner.fit()


def number_of_trials(sweep: SweepConfig, search: Search) -> float:
    """How many there may be; a population of `budget.trials` has so many in every generation."""
    points = search.num_points or math.inf
    return points if sweep.search == "pbt" else min(sweep.budget.trials or math.inf, points)


def trial_settings(space: Space, record: TrialRecord, output: str) -> dict[str, Any]:
    """What `run_trial` needs for a trial."""
    folder = trial_folder(output, record.number)
    run = trial_config(space.config(record.params), number=record.number, output=folder, until_epoch=record.until_epoch)
    parent = None if record.parent is None else trial_folder(output, record.parent)
    return {"run": run.model_dump_json(), "parent": parent}


def _settle(output: str, config: RunConfig, sweep: SweepConfig) -> None:
    """Write down what the sweep is; a folder that holds another one is refused.

    Raises:
        ConfigError: Names what differs, both values, and the ways out.
    """
    own: dict[str, SweepConfig | RunConfig] = {SWEEP_FILE: sweep, RUN_FILE: config}
    for name, model in own.items():
        uri, values = object_store.join(output, name), model.model_dump(mode="json")
        if object_store.exists(uri):
            before = _as_now(yaml.safe_load(object_store.read_bytes(uri)), type(model))
            differing = dict(_differences(before, values))
            differing = {key: pair for key, pair in differing.items() if key.partition(".")[0] not in MAY_CHANGE}
            if differing:
                key, (old, new) = next(iter(differing.items()))
                raise ConfigError(
                    f"{output} holds another sweep: {key} is {old!r} there and {new!r} now"
                    f"{f', and {len(differing) - 1} more differ' if len(differing) > 1 else ''}. Go on with the same "
                    "settings, or give this one a name of its own with sweep.name=NAME"
                )
    object_store.write_bytes(object_store.join(output, SWEEP_FILE), dump_config(sweep).encode())
    object_store.write_bytes(object_store.join(output, RUN_FILE), dump_config(config).encode())


def _as_now(saved: Any, model: type[SweepConfig | RunConfig]) -> Any:
    """What a release before this one wrote, with the defaults of keys that it did not know."""
    try:
        return model.model_validate(saved).model_dump(mode="json")
    except ValidationError:  # it has a key that is gone: the comparison names it
        return saved


def _differences(before: Any, now: Any, key: str = "") -> list[tuple[str, tuple[Any, Any]]]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return [
            item
            for name in dict.fromkeys([*before, *now])
            for item in _differences(before.get(name), now.get(name), f"{key}.{name}" if key else str(name))
        ]
    return [] if json.dumps(before) == json.dumps(now) else [(key, (before, now))]
