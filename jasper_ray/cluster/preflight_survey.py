"""Asks every node of the connected cluster what `preflight` judges, by actors pinned to the nodes."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import cloudpickle
from ray.autoscaler.sdk import request_resources
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jasper_ray.cluster import preflight_links, preflight_probes
from jasper_ray.cluster.preflight import GpuFacts, LinkFacts, NodeFacts, Questions, StoreFacts

CLOCK_QUESTIONS = 5
SERVICE_PORTS = {
    "NodeManagerPort": "node manager",
    "ObjectManagerPort": "object manager",
    "DashboardAgentListenPort": "agent",
    "RuntimeEnvAgentPort": "runtime environments",
}
"""Ray's words for the ports that other nodes must reach, and ours."""


@dataclass(frozen=True)
class _Node:
    name: str
    row: Mapping[str, Any]
    probe: Any

    @property
    def address(self) -> str:
        return str(self.row["NodeManagerAddress"])


def wait_for(num_nodes: int, num_gpus: int, wait_s: float) -> None:
    """Ask the autoscaler, if there is one, for GPUs, and wait for nodes and GPUs; what came is judged later."""
    if num_gpus:
        request_resources(bundles=[{"GPU": 1}] * num_gpus)
    deadline_s = time.monotonic() + wait_s
    while time.monotonic() < deadline_s:
        rows = [row for row in ray.nodes() if row["Alive"]]
        if len(rows) >= num_nodes and sum(row["Resources"].get("GPU", 0) for row in rows) >= num_gpus:
            break
        time.sleep(2.0)
    if num_gpus:
        request_resources(bundles=[])


def survey(questions: Questions, tell: Callable[[str], None]) -> tuple[list[NodeFacts], list[LinkFacts]]:
    """Ask all nodes; `tell` hears what is going on."""
    cloudpickle.register_pickle_by_value(preflight_probes)
    cloudpickle.register_pickle_by_value(preflight_links)
    rows = sorted((row for row in ray.nodes() if row["Alive"]), key=lambda row: str(row["NodeName"]))
    nodes = [_Node(name, row, _probe(row)) for name, row in zip(_names(rows), rows, strict=True)]
    try:
        tell(f"asking {len(nodes)} nodes")
        facts = _ask_nodes(nodes, questions)
        answering = [node for node, fact in zip(nodes, facts, strict=True) if not fact.error]
        links = _measure_links(answering, questions, tell) if questions.links else []
    finally:
        for node in nodes:
            ray.kill(node.probe)
    return facts, links


def _names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Addresses, with the node's id where several nodes share one."""
    addresses = [str(row["NodeManagerAddress"]) for row in rows]
    return [
        address if addresses.count(address) == 1 else f"{address}/{row['NodeID'][:6]}"
        for address, row in zip(addresses, rows, strict=True)
    ]


def _probe(row: Mapping[str, Any], kind: type = preflight_probes.NodeProbe, num_gpus: float = 0) -> Any:
    pinned = NodeAffinitySchedulingStrategy(node_id=row["NodeID"], soft=False)
    return ray.remote(kind).options(num_cpus=0, num_gpus=num_gpus, scheduling_strategy=pinned).remote()


def _ask_nodes(nodes: Sequence[_Node], questions: Questions) -> list[NodeFacts]:
    services = [
        (f"{what} of {node.name}", node.address, int(node.row[key]))
        for node in nodes
        for key, what in SERVICE_PORTS.items()
        if int(node.row.get(key) or 0) > 0
    ]
    further = [("port", host, port) for host, port in questions.reach]
    answers = {
        "facts": [node.probe.facts.remote(questions.cache_dir, questions.shared_memory) for node in nodes],
        "unreachable": [node.probe.connections.remote([*services, *further]) for node in nodes],
        "open": [node.probe.answers_strangers.remote(_agent(node)) for node in nodes],
    }
    if questions.store:
        answers["store"] = [node.probe.store.remote(questions.store) for node in nodes]
    got = {name: _answers(references, questions.timeout_s) for name, references in answers.items()}
    return [_node_facts(node, {name: values[i] for name, values in got.items()}) for i, node in enumerate(nodes)]


def _agent(node: _Node) -> str:
    return f"{node.address}:{node.row['DashboardAgentListenPort']}"


def _answers(references: Sequence[Any], timeout_s: float) -> list[Any]:
    """What each call gave; the exception where one failed or took too long."""
    ready, _ = ray.wait(list(references), num_returns=len(references), timeout=timeout_s)
    done = set(ready)
    return [_answer(reference) if reference in done else _late(timeout_s) for reference in references]


def _answer(reference: Any) -> Any:
    try:
        return ray.get(reference)
    except RayError as error:
        return error


def _late(timeout_s: float) -> Exception:
    error: Exception = GetTimeoutError(f"no answer in {timeout_s:.0f} s")
    return error


def _node_facts(node: _Node, answers: Mapping[str, Any]) -> NodeFacts:
    facts, unreachable = answers["facts"], answers["unreachable"]
    for answer in (facts, unreachable):
        if isinstance(answer, Exception):
            return NodeFacts(node.name, error=_last_line(answer))
    skew_s, error_s = _skew(node.probe)
    resources = node.row["Resources"]
    return NodeFacts(
        name=node.name,
        versions=facts["versions"],
        gpus=tuple(GpuFacts(*gpu) for gpu in facts["gpus"]),
        ray_gpus=resources.get("GPU", 0.0),
        clock_skew_s=skew_s,
        clock_error_s=error_s,
        disk_free_bytes=facts["disk_free_bytes"],
        disk_path=facts["disk_path"],
        shared_memory_bytes=facts["shared_memory_bytes"],
        object_store_bytes=resources.get("object_store_memory", 0.0),
        unreachable=tuple(unreachable),
        open_agents=(_agent(node),) if answers["open"] is True else (),
        store=_store_facts(answers.get("store")),
    )


def _store_facts(answer: Any) -> StoreFacts | None:
    if answer is None:
        return None
    return StoreFacts("store", error=_last_line(answer)) if isinstance(answer, Exception) else StoreFacts(**answer)


def _skew(probe: Any) -> tuple[float, float]:
    """How far a node's clock is ahead, by the question that came back soonest, and how far that can be off."""
    best = (0.0, float("inf"))
    for _ in range(CLOCK_QUESTIONS):
        asked_s, started_s = time.time(), time.perf_counter()
        theirs_s = ray.get(probe.clock.remote())
        half_s = (time.perf_counter() - started_s) / 2
        if half_s < best[1]:
            best = (theirs_s - asked_s - half_s, half_s)
    return best


def _measure_links(nodes: Sequence[_Node], questions: Questions, tell: Callable[[str], None]) -> list[LinkFacts]:
    """Every pair among the nodes that can train: those with GPUs, or where none has one, those with CPUs."""
    use_gpu = any(node.row["Resources"].get("GPU", 0) >= 1 for node in nodes)
    able = {node.name: node for node in nodes if node.row["Resources"].get("GPU" if use_gpu else "CPU", 0) >= 1}
    rounds = preflight_links.tournament(list(able)) if len(able) > 1 else []
    if not rounds:
        return []
    backend = "nccl" if use_gpu else "gloo"
    tell(f"{backend} all-reduce between {sum(len(pairs) for pairs in rounds)} pairs of nodes")
    ends = {
        name: _probe(node.row, preflight_links.LinkProbe, num_gpus=1 if use_gpu else 0) for name, node in able.items()
    }
    try:
        return [link for pairs in rounds for link in _measure_round(pairs, able, ends, backend, questions.timeout_s)]
    finally:
        for end in ends.values():
            ray.kill(end)


def _measure_round(
    pairs: Sequence[tuple[str, str]],
    nodes: Mapping[str, _Node],
    ends: Mapping[str, Any],
    backend: str,
    timeout_s: float,
) -> Iterable[LinkFacts]:
    ports = _answers([ends[first].offer.remote(nodes[first].address) for first, _ in pairs], timeout_s)
    calls, facts = [], {}
    for (first, second), port in zip(pairs, ports, strict=True):
        if isinstance(port, Exception):
            facts[(first, second)] = LinkFacts((first, second), backend, error=_last_line(port))
            continue
        host = nodes[first].address
        for rank, name in enumerate((first, second)):
            calls.append(((first, second), ends[name].all_reduce.remote(rank, host, port, backend, timeout_s / 3)))
    answers = _answers([reference for _, reference in calls], timeout_s)
    for (pair, _), answer in zip(calls, answers, strict=True):
        if isinstance(answer, Exception):
            answer = {"error": _last_line(answer)}
        if pair not in facts or not facts[pair].error:
            facts[pair] = LinkFacts(pair, backend, **answer)
    return facts.values()


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
