import pytest
from ray.job_submission import JobStatus, JobSubmissionClient
from submission import Submit, Submitted

pytestmark = pytest.mark.ray


def test_a_submitted_job_trains_and_succeeds(submitted: Submitted, jobs: JobSubmissionClient) -> None:
    result = submitted.result
    assert result.returncode == 0, result.stdout + result.stderr
    assert jobs.get_job_status("good") == JobStatus.SUCCEEDED
    assert "evaluation at step" in jobs.get_job_logs("good")
    assert (submitted.folder / "run" / "bundle" / "model.safetensors").exists()


def test_a_job_with_a_wrong_config_fails_with_the_reason_as_its_last_line(
    submit: Submit, jobs: JobSubmissionClient
) -> None:
    result = submit("bad", "jobs/configs/demo_cpu.yaml", "training.epoch=3")
    assert result.returncode == 1
    assert jobs.get_job_status("bad") == JobStatus.FAILED
    last = jobs.get_job_logs("bad").strip().splitlines()[-1]
    assert (
        last.startswith("error: override 'training.epoch=3': unknown key") and "Did you mean 'training.epochs'" in last
    )
