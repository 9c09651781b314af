"""The doctor on real nodes: ten faults, each made for real, each in one line."""

import pytest
from faulty_cluster import FaultyCluster, faulty_cluster, missing

from jasper_ray.cluster.preflight import Finding, Limits, Questions
from jobs.doctor import examine

pytestmark = [pytest.mark.ray, pytest.mark.slow]
LIMITS = Limits(disk_free_bytes=100 * 2**20, shared_memory_bytes=64 * 2**20)


@pytest.fixture(scope="module")
def faults(s3_bucket: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[FaultyCluster, list[Finding]]:
    """The cluster and what the doctor said of it."""
    if missing():
        pytest.skip(missing())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # the tenth fault
        with faulty_cluster(tmp_path_factory.mktemp("faults")) as cluster:
            questions = Questions(
                store=f"{s3_bucket}/doctor",
                cache_dir=str(cluster.full_disk),
                shared_memory=str(cluster.small_memory),
            )
            findings, _ = examine(questions, LIMITS)
    return cluster, findings


@pytest.mark.parametrize(
    ("check", "node", "words"),
    [
        ("version", "old", "torch 2.11.0, 3 of 4 nodes have"),
        ("version", "old", "jasper_ray "),
        ("clock", "old", "s beside the driver's"),
        ("gpu", "stranger", "Ray counts 1 GPUs, the driver has 0"),
        ("store", "stranger", "s3://jasper/doctor"),
        ("store", "lost", "s3://jasper/doctor"),
        ("port", None, "no connection to agent of"),
        ("disk", None, "GiB free in"),
        ("shared memory", None, "GiB of shared memory"),
        ("authentication", None, "answers without a token"),
    ],
)
def test_each_of_ten_faults_is_one_line(
    faults: tuple[FaultyCluster, list[Finding]], check: str, node: str | None, words: str
) -> None:
    cluster, findings = faults
    (finding,) = [
        finding
        for finding in findings
        if finding.check == check
        and words in finding.message
        and (node is None or any(cluster.node_ids[node][:6] in name for name in finding.nodes))
    ]
    assert "\n" not in finding.line()
    if node is not None:
        assert len(finding.nodes) == 1


def test_nothing_else_is_found(faults: tuple[FaultyCluster, list[Finding]]) -> None:
    assert len(faults[1]) == 10, [finding.line() for finding in faults[1]]


def test_the_full_disk_is_found_on_every_node(faults: tuple[FaultyCluster, list[Finding]]) -> None:
    (disk,) = [finding for finding in faults[1] if finding.check == "disk"]
    assert len(disk.nodes) == 4
