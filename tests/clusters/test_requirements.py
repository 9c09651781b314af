"""clusters/node/requirements.py and install.sh: what a node gets."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent.parent
EXTRAS = ["serve", "dali", "beam", "containers", "tune"]


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A folder as `ray up` and the Dockerfile make it on a node."""
    for name in ("clusters/node/requirements.py", "clusters/node/install.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    return tmp_path


def run(node: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(node / "requirements.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_extras_that_name_other_extras_are_followed(node: Path) -> None:
    lines = run(node, *EXTRAS).stdout.split()
    assert any(line.startswith("ray[") for line in lines)
    assert any(line.startswith("torch") for line in lines)
    assert not any("jasper" in line for line in lines)
    assert len(lines) == len(set(lines))


def test_packages_that_come_from_elsewhere_can_be_left_out(node: Path) -> None:
    assert "nvidia-dali" not in run(node, "dali", "--without", "nvidia-dali-cuda130").stdout


def test_this_python_has_what_the_constraints_say(node: Path) -> None:
    result = run(node, *EXTRAS, "--check")
    assert result.returncode == 0, result.stdout


def test_another_version_than_the_constraints_say_is_named(node: Path) -> None:
    text = (node / "constraints.txt").read_text()
    (node / "constraints.txt").write_text(text.replace("ray==2.60.0", "ray==2.59.0"))
    result = run(node, *EXTRAS, "--check")
    assert result.returncode == 1
    assert result.stdout.strip() == "ray 2.60.0 is not 2.59.0"


def test_an_unknown_extra_is_refused_with_those_there_are(node: Path) -> None:
    result = run(node, "dalli")
    assert result.returncode == 1
    assert "no extra 'dalli'" in result.stderr and "dali" in result.stderr


def test_a_python_that_has_everything_is_left_as_it_is(node: Path) -> None:
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(node)}
    result = subprocess.run(["bash", node / "install.sh"], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "has every package" in result.stdout
    assert not (node / "jasper_ray_env").exists()
