import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.job_submission import JobStatus, JobSubmissionClient
from tones import prepare_tones

from jobs.serve import free_port

REPOSITORY = Path(__file__).parents[2]
RAY = Path(sys.executable).with_name("ray")

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    """A local cluster that takes jobs; its `python` is the one that runs these tests."""
    port = free_port("127.0.0.1", 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        ray.init(
            address="local", num_cpus=2, object_store_memory=100_000_000, include_dashboard=True, dashboard_port=port
        )
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            ray.shutdown()


def submit(dashboard: str, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [RAY, "job", "submit", "--address", dashboard, "--submission-id", name, "--working-dir", ".", "--"]
    return subprocess.run(
        [*command, "python", "-m", "jobs.train", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "RAY_ADDRESS": ""},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_a_submitted_job_trains_and_succeeds(dashboard: str, tmp_path: Path) -> None:
    prepare_tones(tmp_path, train=24, evaluation=8)
    result = submit(
        dashboard,
        "good",
        "tests/training/tones.yaml",
        f"data.train=[{{path: {tmp_path}/train}}]",
        f"data.evaluation=[{{path: {tmp_path}/evaluation}}]",
        f"output={tmp_path}/run",
        "cluster={num_workers: 2, cpus_per_worker: 0.5}",
        "training.epochs=3",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert JobSubmissionClient(dashboard).get_job_status("good") == JobStatus.SUCCEEDED
    assert "evaluation at step" in JobSubmissionClient(dashboard).get_job_logs("good")
    assert (tmp_path / "run" / "bundle" / "model.safetensors").exists()


def test_a_job_with_a_wrong_config_fails_with_the_reason_as_its_last_line(dashboard: str) -> None:
    result = submit(dashboard, "bad", "jobs/configs/demo_cpu.yaml", "training.epoch=3")
    assert result.returncode == 1
    client = JobSubmissionClient(dashboard)
    assert client.get_job_status("bad") == JobStatus.FAILED
    last = client.get_job_logs("bad").strip().splitlines()[-1]
    assert (
        last.startswith("error: override 'training.epoch=3': unknown key") and "Did you mean 'training.epochs'" in last
    )
