"""What is wrong with a cluster, before a run finds out: facts of its nodes in, findings with advice out; no Ray."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Severity = Literal["error", "warning"]
GIB = 2**30


@dataclass(frozen=True)
class GpuFacts:
    """One GPU as the driver reports it."""

    name: str
    memory_mib: int
    driver: str


@dataclass(frozen=True)
class StoreFacts:
    """What a node saw of the object store; `error` is empty if it could write, read and delete."""

    uri: str
    error: str = ""
    write_mb_per_s: float = 0.0
    read_mb_per_s: float = 0.0


@dataclass(frozen=True)
class NodeFacts:
    """Everything that was asked of one node. `error` says why it did not answer; the rest is empty then."""

    name: str
    error: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of Python, packages and our code; a package that is not there has the version `none`."""
    gpus: tuple[GpuFacts, ...] = ()
    ray_gpus: float = 0.0
    """GPUs that Ray hands out on this node."""
    clock_skew_s: float = 0.0
    """How far its clock is ahead of the driver's."""
    clock_error_s: float = 0.0
    """How far that can be off: half of the quickest question's way there and back."""
    disk_free_bytes: int = 0
    disk_path: str = ""
    shared_memory_bytes: int = 0
    object_store_bytes: float = 0.0
    unreachable: tuple[str, ...] = ()
    """`what (address:port)` that this node could not connect to."""
    open_agents: tuple[str, ...] = ()
    """Addresses of Ray's HTTP services that answered without a token."""
    store: StoreFacts | None = None


@dataclass(frozen=True)
class LinkFacts:
    """An all-reduce between two nodes; `error` is empty if it worked."""

    nodes: tuple[str, str]
    backend: str
    gbit_per_s: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Questions:
    """What to ask for."""

    store: str | None = None
    """Folder on an object store to write, read and delete in."""
    cache_dir: str = "~/.cache/jasper_ray/shards"
    shared_memory: str = "/dev/shm"
    reach: tuple[tuple[str, int], ...] = ()
    """Further addresses that every node must reach."""
    links: bool = True
    timeout_s: float = 120.0
    """For any one question."""


@dataclass(frozen=True)
class Limits:
    """What a cluster must have."""

    disk_free_bytes: int = 20 * GIB
    shared_memory_bytes: int = 2 * GIB
    clock_skew_s: float = 2.0
    """S3 refuses requests at 15 minutes; logs and leases are wrong long before."""
    slowest_share: float = 0.5
    """A node or link below this share of the median slows all others down."""
    num_nodes: int = 0
    num_gpus: int = 0


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: which nodes, what was seen, what to do."""

    severity: Severity
    check: str
    nodes: tuple[str, ...]
    message: str
    advice: str

    def line(self) -> str:
        """The finding in one line."""
        where = f"{', '.join(self.nodes[:4])}{f' and {len(self.nodes) - 4} more' if len(self.nodes) > 4 else ''}: "
        return f"{self.severity}: {self.check}: {where if self.nodes else ''}{self.message}. {self.advice}"


def judge(nodes: Sequence[NodeFacts], links: Sequence[LinkFacts], limits: Limits) -> list[Finding]:
    """All findings, errors first; the same thing on several nodes is one finding."""
    answering = [node for node in nodes if not node.error]
    findings = [
        *judge_answers(nodes, limits),
        *judge_versions(answering),
        *judge_gpus(answering, limits),
        *judge_clocks(answering, limits),
        *judge_disks(answering, limits),
        *judge_shared_memory(answering, limits),
        *judge_ports(answering),
        *judge_authentication(answering),
        *judge_store(answering, limits),
        *judge_links(links, limits),
    ]
    return sorted(_merged(findings), key=lambda finding: finding.severity != "error")


def exit_code(findings: Iterable[Finding]) -> int:
    """0: nothing found, 1: warnings only, 2: a run would fail or be open to strangers."""
    return max(({"warning": 1, "error": 2}[finding.severity] for finding in findings), default=0)


def judge_answers(nodes: Sequence[NodeFacts], limits: Limits) -> list[Finding]:
    """Nodes that are missing, or do not run tasks."""
    silent = [
        Finding("error", "node", (node.name,), f"ran no task: {node.error}", "Look at `ray status` and its logs")
        for node in nodes
        if node.error
    ]
    if len(nodes) < limits.num_nodes:
        silent.append(
            Finding(
                "error",
                "node",
                (),
                f"the cluster has {len(nodes)} nodes, {limits.num_nodes} were asked for",
                "Look at `ray status` for what the autoscaler says, or wait longer with --wait-s",
            )
        )
    return silent


def judge_versions(nodes: Sequence[NodeFacts]) -> list[Finding]:
    """Nodes with other versions than most have."""
    findings = []
    for package in sorted({package for node in nodes for package in node.versions}):
        seen = Counter(node.versions.get(package, "none") for node in nodes)
        (usual, count), *others = seen.most_common()
        for version in (version for version, _ in others):
            which = tuple(node.name for node in nodes if node.versions.get(package, "none") == version)
            findings.append(
                Finding(
                    "error",
                    "version",
                    which,
                    f"{package} {version}, {count} of {len(nodes)} nodes have {usual}",
                    "Send the code with the job (--working-dir .) and uninstall it there"
                    if package == "jasper_ray"
                    else "Run clusters/node/install.sh there, or use one image on all nodes",
                )
            )
    return findings


def judge_gpus(nodes: Sequence[NodeFacts], limits: Limits) -> list[Finding]:
    """GPUs that Ray counts and the driver does not have, or the other way round; unequal ones."""
    findings = []
    for node in nodes:
        there, counted = len(node.gpus), int(node.ray_gpus)
        if there < counted:
            advice = (
                "Look at `nvidia-smi` there: driver, container toolkit (--gpus all), a GPU that has fallen off the bus"
            )
            findings.append(
                Finding("error", "gpu", (node.name,), f"Ray counts {counted} GPUs, the driver has {there}", advice)
            )
    findings += _unequal(nodes, "driver", lambda node: sorted({gpu.driver for gpu in node.gpus}))
    findings += _unequal(nodes, "GPU", lambda node: sorted({f"{gpu.name} {gpu.memory_mib} MiB" for gpu in node.gpus}))
    total = sum(int(node.ray_gpus) for node in nodes)
    if total < limits.num_gpus:
        advice = "Look at `ray status` for what the autoscaler says, or ask for fewer workers"
        message = f"the cluster has {total} GPUs, {limits.num_gpus} were asked for"
        findings.append(Finding("error", "gpu", (), message, advice))
    return findings


def judge_clocks(nodes: Sequence[NodeFacts], limits: Limits) -> list[Finding]:
    """Clocks that are further off than the measurement and the limit."""
    return [
        Finding(
            "error",
            "clock",
            (node.name,),
            f"{node.clock_skew_s:+.1f} s beside the driver's (to {node.clock_error_s:.1f} s)",
            "Start an NTP client there (chrony): stores refuse requests signed at the wrong time",
        )
        for node in nodes
        if abs(node.clock_skew_s) - node.clock_error_s > limits.clock_skew_s
    ]


def judge_disks(nodes: Sequence[NodeFacts], limits: Limits) -> list[Finding]:
    """Disks without room for shards."""
    return [
        Finding(
            "error" if node.disk_free_bytes < limits.disk_free_bytes / 10 else "warning",
            "disk",
            (node.name,),
            f"{node.disk_free_bytes / GIB:.1f} GiB free in {node.disk_path}, {limits.disk_free_bytes / GIB:.1f} wanted",
            "Name a larger disk with data.cache_dir, or a smaller need with data.cache_max_gb and data.window_shards",
        )
        for node in nodes
        if node.disk_free_bytes < limits.disk_free_bytes
    ]


def judge_shared_memory(nodes: Sequence[NodeFacts], limits: Limits) -> list[Finding]:
    """/dev/shm that is smaller than Ray's object store, or than NCCL and loaders need."""
    findings = []
    for node in nodes:
        wanted = max(float(limits.shared_memory_bytes), node.object_store_bytes)
        if node.shared_memory_bytes < wanted:
            message = f"{node.shared_memory_bytes / GIB:.2f} GiB of shared memory, {wanted / GIB:.2f} wanted"
            advice = "Give the container --shm-size (Kubernetes: an emptyDir of medium Memory at /dev/shm)"
            findings.append(Finding("warning", "shared memory", (node.name,), message, advice))
    return findings


def judge_ports(nodes: Sequence[NodeFacts]) -> list[Finding]:
    """Addresses that nodes could not connect to; one finding for each address."""
    cannot: dict[str, list[str]] = defaultdict(list)
    for node in nodes:
        for address in node.unreachable:
            cannot[address].append(node.name)
    advice = "Open it in the firewall or security group between the nodes (docs/clusters.md lists the ports)"
    return [
        Finding("error", "port", tuple(names), f"no connection to {address}", advice)
        for address, names in cannot.items()
    ]


def judge_authentication(nodes: Sequence[NodeFacts]) -> list[Finding]:
    """Ray's services that answer strangers."""
    addresses = sorted({address for node in nodes for address in node.open_agents})
    if not addresses:
        return []
    message = f"Ray answers without a token at {', '.join(addresses[:3])}{', …' if len(addresses) > 3 else ''}"
    advice = "Anybody who reaches it can run code: `ray get-auth-token --generate`, RAY_AUTH_MODE=token, restart"
    return [Finding("error", "authentication", (), message, advice)]


def judge_store(nodes: Sequence[NodeFacts], limits: Limits) -> list[Finding]:
    """Nodes that cannot use the object store, or much more slowly than the others."""
    seen = [(node.name, node.store) for node in nodes if node.store is not None]
    findings = [
        Finding(
            "error",
            "store",
            (name,),
            store.error.rstrip("."),
            "If other nodes can, compare this one's endpoint, role and ~/.aws with theirs",
        )
        for name, store in seen
        if store.error
    ]
    speeds = {name: store.read_mb_per_s for name, store in seen if not store.error}
    usual = statistics.median(speeds.values()) if speeds else 0.0
    findings += [
        Finding(
            "warning",
            "store",
            (name,),
            f"reads {speed:.0f} MB/s, the median node {usual:.0f}",
            "Look at its network: other zone or region, a shared or slower interface",
        )
        for name, speed in speeds.items()
        if speed < limits.slowest_share * usual
    ]
    return findings


def judge_links(links: Sequence[LinkFacts], limits: Limits) -> list[Finding]:
    """Pairs of nodes that cannot exchange gradients, or much more slowly than the others."""
    findings = [
        Finding(
            "error",
            "link",
            link.nodes,
            f"no {link.backend} all-reduce between them: {link.error}",
            "Allow all TCP between the nodes; of several networks name one: NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME",
        )
        for link in links
        if link.error
    ]
    working = [link for link in links if not link.error]
    usual = statistics.median(link.gbit_per_s for link in working) if working else 0.0
    findings += [
        Finding(
            "warning",
            "link",
            link.nodes,
            f"{link.backend} all-reduce at {link.gbit_per_s:.2f} Gbit/s, the median pair {usual:.2f}",
            "Every step waits for the slowest: same zone and placement group, same network card",
        )
        for link in working
        if link.gbit_per_s < limits.slowest_share * usual
    ]
    return findings


def _unequal(nodes: Sequence[NodeFacts], what: str, of: Callable[[NodeFacts], Sequence[str]]) -> list[Finding]:
    seen = Counter(text for node in nodes for text in of(node))
    if len(seen) < 2:
        return []
    usual = seen.most_common(1)[0][0]
    advice = "Steps wait for the slowest kind; collectives of unequal drivers may fail"
    return [
        Finding("warning", "gpu", (node.name,), f"{what} {', '.join(of(node))}, most have {usual}", advice)
        for node in nodes
        if any(text != usual for text in of(node))
    ]


def _merged(findings: Iterable[Finding]) -> list[Finding]:
    """The same thing on several nodes as one finding."""
    nodes: dict[tuple[Severity, str, str, str], list[str]] = defaultdict(list)
    merged: list[Finding] = []
    for finding in findings:
        if finding.check == "link":
            merged.append(finding)
        else:
            nodes[(finding.severity, finding.check, finding.message, finding.advice)] += finding.nodes
    alike = [Finding(key[0], key[1], tuple(names), key[2], key[3]) for key, names in nodes.items()]
    return alike + merged
