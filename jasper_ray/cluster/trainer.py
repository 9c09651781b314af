"""A `RunConfig` as a Ray Train job: data and cluster are checked first, then workers start."""

import json
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import ray
from ray.train import FailureConfig, LoggingConfig, ScalingConfig
from ray.train import RunConfig as RayRunConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from jasper_ray.cluster.events import shown_on
from jasper_ray.cluster.failures import StopOnOwnErrors, training_error, was_never_placed, worker_error
from jasper_ray.cluster.lost_nodes import ForgetLostNodes
from jasper_ray.cluster.preparing import OnTheCluster
from jasper_ray.cluster.ray_metrics import NoMetrics, RayMetrics
from jasper_ray.cluster.room import missing_room, require_capacity, worker_resources
from jasper_ray.cluster.room_watch import RoomWatch
from jasper_ray.cluster.worker import train_here, train_worker
from jasper_ray.config.data import DatasetConfig
from jasper_ray.config.schema import RunConfig
from jasper_ray.data.interference import read_recordings
from jasper_ray.data.preparation import prepare_dataset
from jasper_ray.errors import CapacityError, JasperRayError
from jasper_ray.observe.metrics import DriverMetrics
from jasper_ray.observe.reporters import check_reporters
from jasper_ray.storage import object_store
from jasper_ray.storage.clients import environment
from jasper_ray.storage.lease import Lease
from jasper_ray.training.assembly import read_datasets, select_for
from jasper_ray.training.report import Reporter, Reporters

logger = logging.getLogger(__name__)

OBJECT_STORE_BYTES = 200_000_000
ELASTIC_PLACEMENTS = 20
"""Groups of workers of an elastic run that may fail to start: a dead node is in their way until Ray knows."""
NOTICES_VARIABLE = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
"""Whether Ray Train asks for nodes that are about to be taken away; 0 for no."""
JOB_CONFIG_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Where Ray tells a submitted job what it was submitted with."""


@contextmanager
def connected_to_ray(*, num_cpus: int | None = None, log_to_driver: bool = True) -> Iterator[None]:
    """Join the cluster of RAY_ADDRESS (set inside `ray job submit`), or start a local one and end it again.

    Args:
        num_cpus: CPUs of a local one.
        log_to_driver: Whether this process repeats what the cluster's other processes write.
    """
    if ray.is_initialized():
        yield
        return
    logging_level = logging.WARNING
    runtime_env = {"env_vars": store_variables()}
    with _signals_given_back():
        if os.environ.get("RAY_ADDRESS"):
            ray.init(logging_level=logging_level, log_to_driver=log_to_driver, runtime_env=runtime_env)
        else:
            os.environ.setdefault(NOTICES_VARIABLE, "0")  # nobody takes this machine away
            ray.init(
                address="local",
                num_cpus=num_cpus,
                object_store_memory=OBJECT_STORE_BYTES,
                include_dashboard=True,
                logging_level=logging_level,
                log_to_driver=log_to_driver,
                runtime_env=runtime_env,
            )
    try:
        yield
    finally:
        ray.shutdown()


def store_variables() -> dict[str, str]:
    """What this process knows of object stores, for the processes of all nodes; credentials are the nodes' own.

    Without what the job was submitted with: Ray refuses to be told that twice.
    """
    submitted = json.loads(os.environ.get(JOB_CONFIG_VARIABLE) or "{}").get("runtime_env") or {}
    known = submitted.get("env_vars") or {}
    return {name: value for name, value in environment().items() if name not in known}


@contextmanager
def _signals_given_back() -> Iterator[None]:
    """Ray takes SIGTERM in `ray.init` and SIGINT in `fit`, both for good; the process's own handlers come back here."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None:  # None: set by C code, which Python cannot give back
                signal.signal(number, handler)


def prepare_missing_datasets(config: RunConfig) -> None:
    """Prepare every dataset of a config that is not there yet and says which corpora it comes from.

    The nodes of the cluster do it if this process has joined one (RAY_ADDRESS), else this process.
    """
    for dataset in (*config.data.train, *config.data.evaluation):
        if dataset.corpora:
            _prepare(dataset, config)


def _prepare(dataset: DatasetConfig, config: RunConfig) -> None:
    report = prepare_dataset(
        dataset.corpora,
        dataset.path,
        alphabet=config.text.alphabet,
        config=dataset.preparation,
        run=OnTheCluster() if ray.is_initialized() and os.environ.get("RAY_ADDRESS") else None,
    )
    if not report.reused:
        logger.info(
            "prepared %s: %d utterances, %.2f h, %d rejected",
            dataset.path,
            report.num_utterances,
            report.hours,
            len(report.rejections),
        )


def run_training(config: RunConfig, display: Reporter) -> dict[str, Any]:
    """Train on the cluster that this process is connected to.

    Args:
        config: The run.
        display: Hears the run's events in this process.

    Returns:
        The run's figures, as `jasper_ray.training.loop.TrainingLoop.run` gives them.

    Raises:
        WorkersLostError: Workers were lost more often than `cluster.max_failures` allows.
        CapacityError: After a failure the cluster no longer held the fewest workers; says what is missing.
        LeaseError: Another run writes to the same output.
        NonFiniteError: Training diverged.
        JasperRayError: Data, config or cluster do not allow the run; says which and what to do.
    """
    config = with_absolute_paths(config)
    check_run(config)
    metrics = DriverMetrics(RayMetrics() if config.cluster.metrics else NoMetrics(), run=config.name)
    lease = Lease(config.output, on_lost=_interrupt_this_process)
    room = RoomWatch(config.cluster, end_run=_interrupt_this_process)
    try:
        with lease, _board(config, Reporters([display, metrics])) as board, _signals_given_back(), room:
            try:
                result = _build_trainer(config, board).fit()
            except TrainingFailedError as error:
                missing = missing_room(config.cluster) if was_never_placed(error) else None
                raise (CapacityError(missing) if missing else training_error(error)) from error
            except (KeyboardInterrupt, SystemExit):
                lease.still_ours()
                room.still_room()
                raise
    finally:
        metrics.end()
    figures: dict[str, Any] = result.return_value
    return figures


def run_training_here(config: RunConfig, display: Reporter) -> dict[str, Any]:
    """`run_training` where this process is the run's one worker, and holds the CPUs and the GPU of one already.

    Without Ray Train: none of its processes has to start, and none notices when this one is lost.

    Args:
        config: The run, of one worker.
        display: Hears the run's events, in the thread that trains.

    Raises:
        LeaseError: Another run writes to the same output.
        NonFiniteError: Training diverged.
        StorageError: A store did not answer.
        JasperRayError: Data or config do not allow the run; says which and what to do.
    """
    assert config.cluster.max_workers == 1
    config = with_absolute_paths(config)
    metrics = DriverMetrics(RayMetrics() if config.cluster.metrics else NoMetrics(), run=config.name)
    try:
        with Lease(config.output, on_lost=_interrupt_this_process):
            return train_here(config, Reporters([display, metrics]))
    except JasperRayError:
        raise
    except Exception as error:  # as any worker's
        raise worker_error({0: error}) from error
    finally:
        metrics.end()


def _board(config: RunConfig, reporter: Reporter) -> AbstractContextManager[Any]:
    # A hung worker is named and ended before the others give up and say only that they did.
    return shown_on(reporter, ended_s=0.9 * config.cluster.collective_timeout_s)


def _interrupt_this_process() -> None:
    """Ends a run as Ctrl-C does: another one has taken its output, or the nodes can no longer hold it."""
    os.kill(os.getpid(), signal.SIGINT)


def check_run(config: RunConfig) -> None:
    """Look at everything that can be wrong with a run before workers start.

    Raises:
        JasperRayError: Data or cluster do not allow the run; says which and what to do.
    """
    check_reporters(config)
    select_for(config)  # what is wrong with the data is said now, not by every worker
    if config.data.evaluation:
        read_datasets(config.data.evaluation, key="data.evaluation")
    read_recordings(config.augment.noise, key="augment.noise")
    read_recordings(config.augment.reverb, key="augment.reverb")
    require_capacity(config.cluster)


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """The same run with its local paths made absolute: workers start in another folder than the driver."""

    def datasets(given: tuple[DatasetConfig, ...]) -> tuple[DatasetConfig, ...]:
        return tuple(dataset.model_copy(update={"path": object_store.absolute(dataset.path)}) for dataset in given)

    data = config.data.model_copy(
        update={"train": datasets(config.data.train), "evaluation": datasets(config.data.evaluation)}
    )
    recordings = {"noise": config.augment.noise, "reverb": config.augment.reverb}
    augment = config.augment.model_copy(
        update={key: tuple(object_store.absolute(path) for path in paths) for key, paths in recordings.items()}
    )
    init_from = object_store.absolute(config.init_from) if config.init_from else None
    output = object_store.absolute(config.output)
    return config.model_copy(update={"output": output, "data": data, "augment": augment, "init_from": init_from})


def _build_trainer(config: RunConfig, board: Any) -> TorchTrainer:
    cluster = config.cluster
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(cluster.startup_timeout_s)
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = str(cluster.health_check_interval_s)
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(cluster.silent_worker_s)
    return TorchTrainer(
        train_worker,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "board": board,
            "notices": os.environ.get(NOTICES_VARIABLE) != "0",
        },
        scaling_config=ScalingConfig(
            num_workers=cluster.num_workers,
            use_gpu=cluster.use_gpu,
            resources_per_worker=worker_resources(cluster),
            placement_strategy=cluster.placement,
            elastic_resize_monitor_interval_s=cluster.resize_interval_s,
        ),
        torch_config=TorchConfig(
            backend="nccl" if cluster.use_gpu else "gloo", timeout_s=math.ceil(cluster.collective_timeout_s)
        ),
        run_config=RayRunConfig(
            # Ray's own records of the run; checkpoints, logs and the bundle are ours and lie in config.output.
            name=f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}",
            storage_path=object_store.join(config.output, "ray_train"),
            logging_config=LoggingConfig(log_level="WARNING"),
            failure_config=FailureConfig(
                max_failures=cluster.max_failures,
                controller_failure_limit=1 if cluster.min_workers == cluster.max_workers else ELASTIC_PLACEMENTS,
            ),
            callbacks=[StopOnOwnErrors(), ForgetLostNodes()],
        ),
    )
