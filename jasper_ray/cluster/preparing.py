"""Preparation on a Ray cluster: a shard is a task, its audio never passes through the driver."""

import logging
from collections.abc import Iterable, Iterator
from functools import partial

from jasper_ray.cluster.handing_out import HandingOut
from jasper_ray.cluster.ray_metrics import RayMetrics
from jasper_ray.data.shard_task import ShardRecord, ShardTask, make_shard
from jasper_ray.observe.metrics import PreparationMetrics

logger = logging.getLogger(__name__)

TASK_NAME = "prepare-shard"
"""As Ray shows it."""


class OnTheCluster:
    """A runner for `prepare_dataset`: hands out shards to all nodes and takes their records in as they are done.

    Args:
        cpus_per_shard: CPUs reserved for a shard; also its number of decoding threads.
    """

    def __init__(self, cpus_per_shard: float = 1.0) -> None:
        make = partial(make_shard, num_threads=max(1, round(cpus_per_shard)))
        self._shards = HandingOut(make, name=TASK_NAME, what="a shard", num_cpus=cpus_per_shard)
        self._metrics: PreparationMetrics | None = None

    def __call__(self, tasks: Iterator[ShardTask]) -> Iterable[ShardRecord]:
        """Records in any order.

        Raises:
            CapacityError: No node has the CPUs that a shard asks for.
            JasperRayError: A shard's own error, as `make_shard` raised it; shards under way are given up.
        """
        try:
            for record in self._shards(self._named(tasks)):
                self._tell(record)
                yield record
        finally:
            if self._metrics:
                self._metrics.end()
                self._metrics = None

    def _named(self, tasks: Iterator[ShardTask]) -> Iterator[ShardTask]:
        for task in tasks:
            self._metrics = self._metrics or PreparationMetrics(RayMetrics(), dataset=task.target)
            yield task

    def _tell(self, record: ShardRecord) -> None:
        assert self._metrics is not None, "a record comes after its task"
        logger.info("shard %d: %d utterances", record.number, len(record.rows))
        audio_s = sum(row["duration_s"] for row in record.rows)
        self._metrics.shard_done(utterances=len(record.rows), audio_s=audio_s, rejected=len(record.rejections))
