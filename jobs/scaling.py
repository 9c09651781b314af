"""How training should scale over nodes: `python -m jobs.scaling [CONFIG]` prints the tables of docs/scaling.md."""

import argparse
import tempfile
from collections.abc import Mapping
from functools import partial
from typing import Any

from rich.table import Table

from jasper_ray.config.data import DatasetConfig
from jasper_ray.config.files import load_run_config
from jasper_ray.config.schema import RunConfig
from jasper_ray.data.simulation import librispeech_like_durations, write_simulated_manifest
from jasper_ray.training.assembly import read_datasets
from jasper_ray.training.scaling import (
    BYTES_PER_GRADIENT,
    NETWORKS_GBYTE_PER_S,
    PARAMETERS,
    Machine,
    Scaling,
    Work,
    weak_scaling,
)
from jobs.entry import console, run_job
from jobs.plan import measure_plans

NVIDIA = {8: 7.25, 16: 12.94}
"""Published speed-ups of Jasper by GPUs: 8 A100 and 16 V100, of one machine."""
POLICIES = ["fixed", "seconds", "packed"]


def stragglers(config: RunConfig, workers: list[int], utterances: int) -> dict[int, dict[str, float]]:
    """By workers and policy, what a worker waits for the slowest of each step over what it computes."""
    with tempfile.TemporaryDirectory() as folder:
        write_simulated_manifest(folder, librispeech_like_durations(utterances, seed=config.seed))
        manifest = read_datasets([DatasetConfig(path=folder)], key="DATASET")
    manifest = manifest.select((manifest.durations_s <= config.data.max_duration_s).nonzero()[0])
    rows = measure_plans(config, manifest, policies=POLICIES, workers=workers, epoch=0)
    found: dict[int, dict[str, float]] = {}
    for row in rows:
        share = row.figures.straggler_share
        found.setdefault(row.num_workers, {})[row.policy] = share / (1 - share)
    return found


def expected(arguments: argparse.Namespace, waits: Mapping[int, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Every network and precision of gradients by every number of nodes."""
    rows = []
    for network, speed in NETWORKS_GBYTE_PER_S.items():
        machine = Machine(arguments.gpus_per_node, arguments.nvlink_gbyte_per_s, speed)
        for precision, size in BYTES_PER_GRADIENT.items():
            for num_nodes in arguments.nodes:
                wait = waits.get(num_nodes * arguments.gpus_per_node, {}).get(arguments.policy, 0.0)
                work = Work(arguments.step_ms / 1e3, arguments.microbatches, size * PARAMETERS, wait)
                rows.append(
                    {"network": network, "gradients": precision, **_row(weak_scaling(machine, num_nodes, work))}
                )
    return rows


def _row(scaling: Scaling) -> dict[str, Any]:
    return {
        "nodes": scaling.num_nodes,
        "gpus": scaling.num_gpus,
        "all_reduce_ms": 1e3 * scaling.all_reduce_s,
        "step_ms": 1e3 * scaling.step_s,
        "efficiency": scaling.efficiency,
        "speedup": scaling.speedup,
    }


def _expected_table(rows: list[dict[str, Any]], nodes: list[int]) -> Table:
    table = Table(
        "network", "gradients", *(f"{count} nodes" for count in nodes), title="weak scaling, % of one GPU's speed"
    )
    for network, precision in dict.fromkeys((row["network"], row["gradients"]) for row in rows):
        cells = [row for row in rows if (row["network"], row["gradients"]) == (network, precision)]
        table.add_row(network, precision, *(f"{100 * row['efficiency']:.1f}" for row in cells))
    return table


def _published_table(arguments: argparse.Namespace, waits: Mapping[int, Mapping[str, float]]) -> Table:
    table = Table(
        "GPUs", "NVIDIA", "expected, fp32", "expected, bf16", title=f"speed-up beside NVIDIA's, {arguments.policy}"
    )
    for gpus, published in NVIDIA.items():
        machine = Machine(gpus, arguments.nvlink_gbyte_per_s, 1.0)  # all in one node, as NVIDIA's
        wait = waits.get(gpus, {}).get(arguments.policy, 0.0)
        cells = [
            weak_scaling(
                machine, 1, Work(arguments.step_ms / 1e3, arguments.microbatches, size * PARAMETERS, wait)
            ).speedup
            for size in BYTES_PER_GRADIENT.values()
        ]
        table.add_row(str(gpus), f"{published:.2f}", *(f"{cell:.2f}" for cell in cells))
    return table


def _waits_table(waits: Mapping[int, Mapping[str, float]]) -> Table:
    table = Table("workers", *POLICIES, "nvidia", title="waiting for the slowest worker, % of a step's computation")
    for workers, shares in waits.items():
        table.add_row(str(workers), *(f"{100 * shares[policy]:.1f}" for policy in [*POLICIES, "nvidia"]))
    return table


def _scaling(arguments: argparse.Namespace) -> Mapping[str, Any]:
    workers = [count * arguments.gpus_per_node for count in arguments.nodes]
    waits: dict[int, dict[str, float]] = {}
    if arguments.config:
        config = load_run_config(arguments.config, arguments.overrides)
        workers = sorted({*workers, *NVIDIA})
        waits = stragglers(config, workers, arguments.utterances)
        console.print(_waits_table(waits))
    rows = expected(arguments, waits)
    console.print(_expected_table(rows, arguments.nodes))
    console.print(_published_table(arguments, waits))
    return {"step_ms": arguments.step_ms, "stragglers": waits, "expected": rows}


def main() -> None:
    """Expected weak scaling of Jasper 10x5 by arithmetic, and how long workers wait for each other by their plans."""
    parser = argparse.ArgumentParser(prog="python -m jobs.scaling", description=main.__doc__)
    parser.add_argument("config", nargs="?", help="YAML file: its batching says how long workers wait (default: 0)")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="e.g. batching.row_seconds=36")
    parser.add_argument(
        "--step-ms", type=float, default=166.0, help="a step on one GPU, as jobs.benchmark train gives it"
    )
    parser.add_argument("--microbatches", type=int, default=1, help="of each GPU in a step (default 1)")
    parser.add_argument("--gpus-per-node", type=int, default=8, help="default 8")
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64], help="default 1 2 4 ... 64")
    parser.add_argument(
        "--nvlink-gbyte-per-s", type=float, default=360.0, help="of one GPU in an all-reduce (default 360)"
    )
    parser.add_argument(
        "--policy", choices=[*POLICIES, "nvidia"], default="packed", help="of batching (default packed)"
    )
    parser.add_argument("--utterances", type=int, default=281_241, help="of the simulated corpus (default 281241)")
    run_job(partial(_scaling, parser.parse_args()))


if __name__ == "__main__":
    main()
