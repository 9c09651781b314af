"""Keys and tokens in the environment of a job stand in none of its outputs, nor in any log that Ray keeps of it."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]
REPOSITORY = Path(__file__).parents[2]
SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "canary-of-the-secret-key",
    "AWS_SESSION_TOKEN": "canary-of-the-session",
    "RAY_AUTH_TOKEN": "ca9a7e" * 11,
    "MLFLOW_TRACKING_PASSWORD": "canary-of-the-board",
}


def test_no_secret_of_the_environment_is_written_anywhere(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="jr") as folder:  # Ray's sockets need short names
        environment = {
            **os.environ,
            **SECRETS,
            "AWS_ACCESS_KEY_ID": "anybody",
            "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
            "JASPER_STORE_ATTEMPTS": "1",
            "RAY_AUTH_MODE": "token",
            "RAY_TMPDIR": folder,
            "HOME": str(tmp_path),
        }
        environment.pop("RAY_ADDRESS", None)
        command = [sys.executable, "-m", "jobs.doctor", "--json", "--store", "s3://speech/doctor"]
        result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=400)
        assert result.returncode == 2, result.stderr  # the store is not there
        assert "s3://speech/doctor" in result.stderr
        texts = {"stdout": result.stdout, "stderr": result.stderr}
        logs = [path for root in (Path(folder), tmp_path) for path in root.rglob("*") if path.is_file()]
        assert any(path.name.startswith("raylet") for path in logs)
        texts |= {str(path): path.read_bytes().decode(errors="replace") for path in logs}
        found = [(where, name) for where, text in texts.items() for name, secret in SECRETS.items() if secret in text]
        assert found == []
