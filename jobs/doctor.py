"""Checks the cluster before money is spent: `ray job submit --working-dir . -- python -m jobs.doctor [OPTIONS]`."""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from jasper_ray.cluster.preflight import GIB, Finding, Limits, Questions, exit_code, judge
from jasper_ray.config.files import load_run_config
from jobs.entry import console, run_job


def examine(questions: Questions, limits: Limits, *, wait_s: float = 0.0) -> tuple[list[Finding], Mapping[str, Any]]:
    """Ask all nodes of the connected cluster; findings, and everything as plain values."""
    # Here, so that help and mistakes are answered at once: Ray and torch take seconds to import.
    from jasper_ray.cluster.preflight_survey import survey, wait_for

    wait_for(limits.num_nodes, limits.num_gpus, wait_s)
    nodes, links = survey(questions, lambda text: console.print(text, highlight=False))
    findings = judge(nodes, links, limits)
    report = {
        "findings": [{**asdict(finding), "line": finding.line()} for finding in findings],
        "severity": exit_code(findings),
        "nodes": [asdict(node) for node in nodes],
        "links": [asdict(link) for link in links],
    }
    return findings, report


def _doctor(arguments: argparse.Namespace, codes: list[int]) -> Mapping[str, Any]:
    from jasper_ray.cluster.trainer import connected_to_ray

    config = load_run_config(arguments.config, []) if arguments.config else None
    questions = Questions(
        store=arguments.store or (config.output if config and "://" in config.output else None),
        cache_dir=arguments.cache_dir or (config.data.cache_dir if config else Questions.cache_dir),
        shared_memory=arguments.shared_memory,
        reach=tuple(arguments.reach),
        links=not arguments.no_links,
        timeout_s=arguments.timeout_s,
    )
    gpus = config.cluster.max_workers if config and config.cluster.use_gpu else 0
    limits = Limits(
        disk_free_bytes=int(arguments.disk_gib * GIB),
        shared_memory_bytes=int(arguments.shared_memory_gib * GIB),
        clock_skew_s=arguments.clock_s,
        num_nodes=arguments.nodes,
        num_gpus=arguments.gpus or gpus,
    )
    with connected_to_ray():
        findings, report = examine(questions, limits, wait_s=arguments.wait_s)
    for finding in findings:
        style = "red" if finding.severity == "error" else "yellow"
        console.print(finding.line(), style=style, markup=False, highlight=False, soft_wrap=True)
    codes.append(exit_code(findings))
    verdict = {0: "nothing found", 1: "a run would work, but see the warnings", 2: "a run would fail or be unsafe"}
    console.print(f"{len(report['nodes'])} nodes, {len(report['links'])} links: {verdict[codes[0]]}", highlight=False)
    return report if arguments.json else {key: report[key] for key in ("findings", "severity")}


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise argparse.ArgumentTypeError(f"must be HOST:PORT, got {text!r}")
    return host, int(port)


def main() -> None:
    """Look for what is wrong with the cluster: one line per finding, with what to do.

    Ends with status 0 if nothing is, 1 after warnings, 2 after errors.
    """
    parser = argparse.ArgumentParser(prog="python -m jobs.doctor", description=main.__doc__)
    parser.add_argument("--config", help="a run's YAML file: its output, cache and GPUs are what is asked for")
    parser.add_argument("--store", metavar="URI", help="folder on an object store that every node must read and write")
    parser.add_argument("--cache-dir", metavar="DIR", help="folder for shards on every node (default: the config's)")
    parser.add_argument("--disk-gib", type=float, default=20.0, help="wanted there (default 20)")
    parser.add_argument("--shared-memory", default="/dev/shm", metavar="DIR", help="default /dev/shm")
    parser.add_argument("--shared-memory-gib", type=float, default=2.0, help="wanted there (default 2)")
    parser.add_argument("--clock-s", type=float, default=2.0, help="clocks may differ by this (default 2)")
    parser.add_argument("--nodes", type=int, default=0, metavar="N", help="nodes that must be there, with the head")
    parser.add_argument("--gpus", type=int, default=0, metavar="N", help="GPUs; an autoscaler is asked for them")
    parser.add_argument("--wait-s", type=float, default=0.0, help="how long to wait for nodes and GPUs (default 0)")
    parser.add_argument(
        "--reach", type=_address, nargs="*", default=[], metavar="HOST:PORT", help="also to be reached by every node"
    )
    parser.add_argument("--no-links", action="store_true", help="leave out the all-reduce between pairs of nodes")
    parser.add_argument("--timeout-s", type=float, default=120.0, help="for any one question (default 120)")
    parser.add_argument(
        "--json", action="store_true", help="all that was seen in the JSON on stdout, not findings only"
    )
    codes: list[int] = []
    arguments = parser.parse_args()
    run_job(lambda: _doctor(arguments, codes))
    sys.exit(codes[0])


if __name__ == "__main__":
    main()
