"""What `ray job submit --working-dir .` sends: the code and its configs, packed by Ray's own packer."""

import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package

REPOSITORY = Path(__file__).parents[2]
MOST_BYTES = 10_000_000


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    path = tmp_path_factory.mktemp("package") / "code.zip"
    create_package(str(REPOSITORY), path, include_gitignore=True, logger=None)
    return zipfile.ZipFile(path)


def test_the_package_stays_small(package: zipfile.ZipFile) -> None:
    sizes = {entry.filename: entry.file_size for entry in package.infolist()}
    largest = sorted(sizes, key=lambda name: sizes[name])[-5:]
    assert sum(sizes.values()) < MOST_BYTES, largest


def test_the_package_holds_what_jobs_need_and_no_environments_runs_or_history(package: zipfile.ZipFile) -> None:
    names = package.namelist()
    for needed in ("jasper_ray/cluster/trainer.py", "jobs/train.py", "jobs/configs/demo_cpu.yaml", "serve/app.py"):
        assert needed in names
    folders = {name.split("/")[0] for name in names}
    assert not folders & {
        ".git",
        ".venv",
        ".venv-peers",
        "runs",
        "build",
        ".mypy_cache",
        ".ruff_cache",
        ".pytest_cache",
    }
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
