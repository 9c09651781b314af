"""Preparation on a Ray cluster: a shard is a task, its audio never passes through the driver."""

import logging
from collections.abc import Iterable, Iterator

import ray
from ray.exceptions import RayTaskError

from jasper_ray.cluster.ray_metrics import RayMetrics
from jasper_ray.data.shard_task import ShardRecord, ShardTask, make_shard
from jasper_ray.errors import CapacityError, JasperRayError
from jasper_ray.observe.metrics import PreparationMetrics

logger = logging.getLogger(__name__)

TASK_NAME = "prepare-shard"
"""As Ray shows it."""
TASKS_PER_CPU = 2
"""Shards handed out ahead of time, so that no core waits for the listing."""
MAX_RETRIES = 20
"""Deaths of workers and nodes that one shard survives; errors of its own are not tried again."""


class OnTheCluster:
    """A runner for `prepare_dataset`: hands out shards to all nodes and takes their records in as they are done.

    Args:
        cpus_per_shard: CPUs reserved for a shard; also its number of decoding threads.
    """

    def __init__(self, cpus_per_shard: float = 1.0) -> None:
        self._cpus_per_shard = cpus_per_shard
        self._make = ray.remote(make_shard).options(name=TASK_NAME, max_retries=MAX_RETRIES, num_cpus=cpus_per_shard)
        self._num_threads = max(1, round(cpus_per_shard))

    def __call__(self, tasks: Iterator[ShardTask]) -> Iterable[ShardRecord]:
        """Records in any order.

        Raises:
            CapacityError: No node has the CPUs that a shard asks for.
            JasperRayError: A shard's own error, as `make_shard` raised it; shards under way are given up.
        """
        self._require_room()
        pending: list[ray.ObjectRef] = []
        metrics: PreparationMetrics | None = None
        try:
            for task in tasks:
                metrics = metrics or PreparationMetrics(RayMetrics(), dataset=task.target)
                while len(pending) >= self._num_ahead():
                    yield self._next(pending, metrics)
                pending.append(self._make.remote(task, num_threads=self._num_threads))
            while pending and metrics:
                yield self._next(pending, metrics)
        finally:
            if metrics:
                metrics.end()
            for reference in pending:
                ray.cancel(reference, force=True)

    def _require_room(self) -> None:
        have = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
        if max(have, default=0) < self._cpus_per_shard:
            raise CapacityError(
                f"a shard asks for {self._cpus_per_shard:g} CPUs, the cluster's nodes have "
                f"{', '.join(f'{cpus:g}' for cpus in have) or 'none'}. Ask for fewer threads, or add nodes"
            )

    def _num_ahead(self) -> int:
        """Grows and shrinks with the cluster."""
        return max(2, int(ray.cluster_resources().get("CPU", 1) / self._cpus_per_shard * TASKS_PER_CPU))

    def _next(self, pending: list[ray.ObjectRef], metrics: PreparationMetrics) -> ShardRecord:
        (done,), pending[:] = ray.wait(pending, num_returns=1)
        try:
            record: ShardRecord = ray.get(done)
        except RayTaskError as error:
            if isinstance(error.cause, JasperRayError):
                raise error.cause from None
            raise
        logger.info("shard %d: %d utterances", record.number, len(record.rows))
        audio_s = sum(row["duration_s"] for row in record.rows)
        metrics.shard_done(utterances=len(record.rows), audio_s=audio_s, rejected=len(record.rejections))
        return record
