"""How training should scale over GPUs and nodes, by arithmetic: no GPU was measured, the step's time is a parameter.

A step computes for `step_s` on one GPU. DDP all-reduces the gradients while the last micro-batch's backward runs,
bucket by bucket, in a ring inside of each node and one between the nodes (as NCCL does it, hierarchically), with g GPUs
per node, m nodes and B bytes of gradients:

    all-reduce = 2 (g-1)/g B / nvlink + 2 (m-1)/m B / network
    overlapped = at most 0.9 of the last backward (two thirds of its micro-batch)
    step = step_s (1 + stragglers) + what is not overlapped + last bucket + 5 % of the overlapped (GPU time) + fixed

Source: Li et al. 2020, "PyTorch Distributed", for the overlap in buckets; Patarasuk and Yuan 2009 for a ring's volume.
"""

from dataclasses import dataclass

PARAMETERS = 332_632_349
"""Of Jasper 10x5 dense residual."""
BUCKET_BYTES = 25 * 2**20
"""DDP's default."""
BACKWARD_SHARE = 2 / 3
OVERLAPPED_SHARE = 0.9
INTERFERENCE = 0.05
FIXED_S = 0.002
"""Per step, for synchronising."""
NETWORKS_GBYTE_PER_S = {"100 GbE": 11.0, "400 Gbit/s": 44.0, "3.2 Tbit/s": 350.0}
"""What a node gets of its network: about 88 % of the line."""
BYTES_PER_GRADIENT = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class Machine:
    """A node's GPUs and how they and the nodes are connected."""

    gpus_per_node: int
    nvlink_gbyte_per_s: float
    """Of one GPU in an all-reduce inside of its node."""
    network_gbyte_per_s: float
    """Of one node to the others."""


@dataclass(frozen=True)
class Work:
    """A step of one GPU."""

    step_s: float
    microbatches: int = 1
    gradient_bytes: int = 4 * PARAMETERS
    straggler_share: float = 0.0
    """Of the step, that which a worker waits for the slowest; of `jobs.plan` for the number of workers."""


@dataclass(frozen=True)
class Scaling:
    """What is expected of a number of nodes."""

    num_nodes: int
    num_gpus: int
    all_reduce_s: float
    step_s: float
    efficiency: float
    """One GPU's step without others over this step: the share of weak scaling that is kept."""

    @property
    def speedup(self) -> float:
        """How many single GPUs these are worth."""
        return self.efficiency * self.num_gpus


def all_reduce_s(machine: Machine, num_nodes: int, gradient_bytes: int) -> float:
    """Seconds of the whole all-reduce, were it alone."""
    gpus = machine.gpus_per_node
    inside = 2 * (gpus - 1) / gpus * gradient_bytes / (machine.nvlink_gbyte_per_s * 1e9)
    between = 2 * (num_nodes - 1) / num_nodes * gradient_bytes / (machine.network_gbyte_per_s * 1e9)
    return inside + between


def weak_scaling(machine: Machine, num_nodes: int, work: Work) -> Scaling:
    """A step on `num_nodes` nodes where each GPU has as much work as one alone."""
    num_gpus = num_nodes * machine.gpus_per_node
    if num_gpus == 1:
        return Scaling(num_nodes, 1, 0.0, work.step_s, 1.0)
    whole_s = all_reduce_s(machine, num_nodes, work.gradient_bytes)
    backward_s = BACKWARD_SHARE * work.step_s / work.microbatches
    exposed_s = max(0.0, whole_s - OVERLAPPED_SHARE * backward_s)
    last_bucket_s = whole_s * min(1.0, BUCKET_BYTES / work.gradient_bytes)
    slowed_s = INTERFERENCE * min(whole_s, backward_s)
    step_s = work.step_s * (1 + work.straggler_share) + exposed_s + last_bucket_s + slowed_s + FIXED_S
    return Scaling(num_nodes, num_gpus, whole_s, step_s, work.step_s / step_s)
