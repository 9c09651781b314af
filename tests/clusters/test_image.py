"""The image, really built: on a Debian of its own making, since no registry is asked for one; a training runs in it.

`JASPER_IMAGE_OPTIONS` holds more options of `buildah build`, such as `--volume` for a package index at hand.
"""

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
MISSING = [tool for tool in ("buildah", "debootstrap") if shutil.which(tool) is None]
REASON = f"apt-get install {' '.join(MISSING)}" if MISSING else "needs root" if os.geteuid() != 0 else ""
pytestmark = [pytest.mark.realpeer, pytest.mark.skipif(bool(REASON), reason=REASON)]

BASE, IMAGE = "localhost/jasper-ray-test-base", "localhost/jasper-ray-test"
VERSIONS = """
import json, os, nvidia.dali, ray, torch
print(json.dumps([os.getuid(), ray.__version__, torch.__version__]))
"""


def run(*command: object, timeout_s: float = 300) -> str:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def container(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A container of the image; gone, with both images, afterwards."""
    root = tmp_path_factory.mktemp("debian") / "root"
    names: list[str] = []
    try:
        run("debootstrap", "--variant=minbase", "bookworm", root, timeout_s=900)
        names.append(run("buildah", "from", "scratch").strip())
        run("buildah", "copy", "--quiet", names[0], root, "/")
        run("buildah", "commit", "--quiet", names[0], BASE)
        shutil.rmtree(root)
        options = shlex.split(os.environ.get("JASPER_IMAGE_OPTIONS", ""))
        arguments = ["--build-arg", f"BASE={BASE}", "--isolation", "chroot", "--layers=false", "--tag", IMAGE, *options]
        print(run("buildah", "build", *arguments, REPOSITORY, timeout_s=1800)[-1000:])
        names.append(run("buildah", "from", IMAGE).strip())
        yield names[-1]
    finally:
        for name in names:
            subprocess.run(["buildah", "rm", name], capture_output=True)
        for image in (IMAGE, BASE):
            subprocess.run(["buildah", "rmi", "--force", image], capture_output=True)


def inside(container: str, *command: str, timeout_s: float = 300) -> str:
    """Run a command in the container, with this repository where a job's working directory would be."""
    options = ["--isolation", "chroot", "--volume", f"{REPOSITORY}:/home/ray/job:ro", "--workingdir", "/home/ray/job"]
    return run("buildah", "run", *options, container, "--", *command, timeout_s=timeout_s)


def test_the_image_has_the_projects_versions_and_no_root(container: str) -> None:
    uid, ray_version, torch_version = json.loads(inside(container, "python", "-c", VERSIONS).splitlines()[-1])
    pinned = (REPOSITORY / "constraints.txt").read_text()
    assert uid == 1000
    assert f"ray=={ray_version}" in pinned and f"torch=={torch_version.partition('+')[0]}" in pinned


def test_a_training_runs_in_it_on_ray(container: str) -> None:
    """Prepared, trained by two workers of a cluster that the container starts, and evaluated."""
    script = """
import sys
sys.path.insert(0, "tests/training")
from pathlib import Path
from tones import prepare_tones
prepare_tones(Path("/tmp/tones"), train=40)
"""
    inside(container, "python", "-c", script)
    overrides = [f"data.{name}=[{{path: /tmp/tones/{name}}}]" for name in ("train", "evaluation")]
    overrides += ["output=/tmp/tones/run", "training.epochs=2", "cluster={num_workers: 2}"]
    command = ["python", "-m", "jobs.train", "tests/training/tones.yaml", *overrides]
    summary = json.loads(inside(container, *command).splitlines()[-1])
    assert summary["finished"] and summary["global_step"] > 0
    figures = inside(container, "python", "-m", "jobs.evaluate", "/tmp/tones/run/bundle", "/tmp/tones/evaluation")
    assert json.loads(figures.splitlines()[-1])["num_utterances"] > 0
