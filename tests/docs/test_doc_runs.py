"""The blocks of the documentation that are marked `<!-- run: WORKSPACE -->`, each in a copy of its workspace."""

import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest
from commands import OPTIONAL, Block, shell_blocks
from workspace import SERVER, make_workspace, run_script, script, write_config

from jasper_ray.storage import object_store

pytestmark = [pytest.mark.slow, pytest.mark.ray]
RUNNING = [block for block in shell_blocks() if block.mark == "run"]
TIMEOUT_S = 420.0


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "template"
    make_workspace(folder)
    return folder


@pytest.fixture
def local(template: Path, tmp_path: Path) -> Path:
    """Everything on this disk."""
    folder = tmp_path / "workspace"
    shutil.copytree(template, folder, symlinks=True)
    return folder


@pytest.fixture
def store(local: Path, s3_bucket: str) -> Path:
    """The corpus's dataset is still to be made at s3://bucket; the other one lies there."""
    boto3.client("s3").create_bucket(Bucket="bucket")
    shutil.rmtree(local / "RUN")
    test = "s3://bucket/librispeech/test"
    for path in (local / "DEV_DATASET").rglob("*"):
        if path.is_file():
            uri = object_store.join(test, str(path.relative_to(local / "DEV_DATASET")))
            object_store.write_bytes(uri, path.read_bytes())
    write_config(local, "s3://bucket/librispeech/train", test)
    return local


@pytest.fixture
def workspaces(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    return lambda name: request.getfixturevalue(name)


@pytest.mark.parametrize("block", RUNNING, ids=lambda block: block.id)
def test_a_block_of_the_documentation_runs(block: Block, workspaces: Callable[[str], Path]) -> None:
    if SERVER in block.text:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", 8000)) == 0:
                pytest.skip("port 8000, which the documentation names, is taken")
    text = re.sub(r"\s\.\.\.(?=\s|$)", "", OPTIONAL.sub("", block.text), flags=re.MULTILINE)
    done = run_script(script(text), workspaces(block.note), TIMEOUT_S)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
