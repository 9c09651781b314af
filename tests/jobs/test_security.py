"""Who may use a cluster: with the token everything works, without it nothing does."""

import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from ray.job_submission import JobSubmissionClient

pytestmark = pytest.mark.ray
RAY = Path(sys.executable).with_name("ray")


def ray_job(dashboard: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`ray job ...` with `variables` in its environment."""
    without = {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ADDRESS"}
    environment = {name: value for name, value in os.environ.items() if name not in without}
    verb, *rest = arguments
    command = [RAY, "job", verb, "--address", dashboard, *rest]
    return subprocess.run(command, env=environment | variables, capture_output=True, text=True, timeout=240)


def status(url: str, **headers: str) -> int:
    try:
        return int(urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30).status)
    except urllib.error.HTTPError as error:
        return error.code


def token() -> str:
    return (Path.home() / ".ray" / "auth_token").read_text().strip()


def test_a_submission_without_the_token_is_refused_and_runs_nothing(
    dashboard: str, jobs: JobSubmissionClient, tmp_path: Path
) -> None:
    for variables in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
        arguments = ("submit", "--submission-id", "stranger", "--", "touch", str(tmp_path / "ran"))
        result = ray_job(dashboard, *arguments, HOME=str(tmp_path), **variables)
        assert result.returncode != 0
        assert "authentication token" in result.stderr
    assert "stranger" not in [job.submission_id for job in jobs.list_jobs()]
    assert not (tmp_path / "ran").exists()


def test_a_submission_with_the_token_runs(dashboard: str, jobs: JobSubmissionClient, tmp_path: Path) -> None:
    assert jobs.get_version()  # the cluster is up
    arguments = ("submit", "--submission-id", "friend", "--", "touch", str(tmp_path / "ran"))
    result = ray_job(dashboard, *arguments, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token())
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "path", ["/api/jobs/", "/api/cluster_status", "/nodes?view=summary", "/api/serve/applications/"]
)
def test_the_dashboard_answers_with_the_token_only(dashboard: str, path: str) -> None:
    assert status(dashboard + path) == 401
    assert status(dashboard + path, Authorization=f"Bearer {'0' * 64}") == 403
    assert status(dashboard + path, Authorization=f"Bearer {token()}") not in (401, 403)


def test_the_list_of_jobs_is_there_for_who_has_the_token(dashboard: str) -> None:
    assert status(f"{dashboard}/api/jobs/", Authorization=f"Bearer {token()}") == 200
