"""What the doctor says to facts; its questions to real nodes are in test_doctor.py."""

from dataclasses import replace

import pytest

from jasper_ray.cluster.preflight import (
    GIB,
    Finding,
    GpuFacts,
    Limits,
    LinkFacts,
    NodeFacts,
    StoreFacts,
    exit_code,
    judge,
)
from jasper_ray.cluster.preflight_links import tournament

A100 = GpuFacts("NVIDIA A100-SXM4-40GB", 40960, "580.65.06")
HEALTHY = NodeFacts(
    "10.0.0.1",
    versions={"python": "3.11.9", "torch": "2.13.0", "jasper_ray": "0a1b2c3d4e"},
    gpus=(A100, A100),
    ray_gpus=2,
    clock_skew_s=0.01,
    clock_error_s=0.02,
    disk_free_bytes=500 * GIB,
    disk_path="/cache",
    shared_memory_bytes=64 * GIB,
    object_store_bytes=30.0 * GIB,
    store=StoreFacts("s3://speech/doctor", write_mb_per_s=80.0, read_mb_per_s=200.0),
)
NODES = [replace(HEALTHY, name=f"10.0.0.{number}") for number in range(1, 5)]
LINKS = [LinkFacts(pair, "nccl", gbit_per_s=90.0) for pairs in tournament([n.name for n in NODES]) for pair in pairs]


def found(changed: NodeFacts) -> list[Finding]:
    return judge([*NODES[:3], changed], LINKS, Limits())


def test_a_healthy_cluster_has_no_findings() -> None:
    assert judge(NODES, LINKS, Limits(num_nodes=4, num_gpus=8)) == []
    assert exit_code([]) == 0


@pytest.mark.parametrize(
    ("change", "severity", "words"),
    [
        ({"versions": {**HEALTHY.versions, "torch": "2.11.0"}}, "error", "torch 2.11.0, 3 of 4 nodes have 2.13.0"),
        ({"versions": {**HEALTHY.versions, "jasper_ray": "ffff"}}, "error", "jasper_ray ffff"),
        ({"versions": {"python": "3.11.9", "jasper_ray": "0a1b2c3d4e"}}, "error", "torch none"),
        ({"gpus": (A100,)}, "error", "Ray counts 2 GPUs, the driver has 1"),
        ({"gpus": (replace(A100, driver="470.1"),) * 2}, "warning", "driver 470.1, most have 580.65.06"),
        ({"gpus": (GpuFacts("NVIDIA L4", 23034, "580.65.06"),) * 2}, "warning", "GPU NVIDIA L4 23034 MiB"),
        ({"clock_skew_s": -40.0}, "error", "-40.0 s beside the driver's"),
        ({"disk_free_bytes": GIB}, "error", "1.0 GiB free in /cache, 20.0 wanted"),
        ({"disk_free_bytes": 10 * GIB}, "warning", "10.0 GiB free"),
        ({"shared_memory_bytes": GIB // 16}, "warning", "0.06 GiB of shared memory, 30.00 wanted"),
        ({"unreachable": ("agent of 10.0.0.1 (10.0.0.1:8081)",)}, "error", "no connection to agent of 10.0.0.1"),
        ({"open_agents": ("10.0.0.4:8081",)}, "error", "answers without a token at 10.0.0.4:8081"),
        (
            {"store": StoreFacts("s3://speech/doctor", error="access refused")},
            "error",
            "store: 10.0.0.4: access refused. If",
        ),
        ({"store": StoreFacts("s3://speech", write_mb_per_s=80, read_mb_per_s=9)}, "warning", "reads 9 MB/s"),
        ({"error": "no answer in 120 s"}, "error", "ran no task: no answer in 120 s"),
    ],
)
def test_each_fault_is_one_line_that_says_where_and_what_to_do(
    change: dict[str, object], severity: str, words: str
) -> None:
    (finding,) = found(replace(HEALTHY, name="10.0.0.4", **change))  # type: ignore[arg-type]
    assert finding.severity == severity
    assert words in finding.line()
    assert "\n" not in finding.line()
    assert finding.advice
    if finding.check not in ("authentication",):
        assert "10.0.0.4" in finding.line()
    assert exit_code([finding]) == {"warning": 1, "error": 2}[severity]


def test_a_clock_is_judged_by_no_more_than_was_measured() -> None:
    assert found(replace(HEALTHY, name="10.0.0.4", clock_skew_s=3.0, clock_error_s=1.5)) == []


def test_the_same_fault_on_several_nodes_is_one_line() -> None:
    bad = [replace(node, disk_free_bytes=0) for node in NODES]
    (finding,) = judge(bad, LINKS, Limits())
    assert finding.nodes == tuple(node.name for node in NODES)


def test_nodes_and_gpus_that_were_asked_for_and_are_not_there_are_named() -> None:
    lines = [finding.line() for finding in judge(NODES, LINKS, Limits(num_nodes=6, num_gpus=12))]
    assert any("has 4 nodes, 6 were asked for" in line for line in lines)
    assert any("has 8 GPUs, 12 were asked for" in line for line in lines)


def test_a_link_that_fails_and_one_that_is_slow_are_named_by_their_ends() -> None:
    slow, dead = replace(LINKS[0], gbit_per_s=9.0), replace(LINKS[1], gbit_per_s=0.0, error="Connection refused")
    findings = judge(NODES, [slow, dead, *LINKS[2:]], Limits())
    assert [(finding.severity, finding.nodes) for finding in findings] == [
        ("error", dead.nodes),
        ("warning", slow.nodes),
    ]


def test_errors_come_before_warnings() -> None:
    findings = found(replace(HEALTHY, name="10.0.0.4", disk_free_bytes=10 * GIB, clock_skew_s=60.0))
    assert [finding.severity for finding in findings] == ["error", "warning"]


@pytest.mark.parametrize("count", [2, 3, 4, 7, 8])
def test_a_tournament_has_every_pair_once_and_nobody_twice_in_a_round(count: int) -> None:
    names = [str(number) for number in range(count)]
    rounds = tournament(names)
    pairs = [frozenset(pair) for pairs in rounds for pair in pairs]
    assert len(pairs) == len(set(pairs)) == count * (count - 1) // 2
    for pairs_of_round in rounds:
        players = [name for pair in pairs_of_round for name in pair]
        assert len(players) == len(set(players))
