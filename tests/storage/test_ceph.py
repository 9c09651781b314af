"""The object store and a whole run on Ceph's RADOS Gateway."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
from ceph_server import ACCESS_KEY, SECRET_KEY, ceph_server, limit_requests, missing_programs
from store_runs import prepare_and_train
from tones import write_corpus

from jasper_ray.errors import StorageError
from jasper_ray.storage import clients, object_store

pytestmark = pytest.mark.realpeer
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ceph") / "ceph"


@pytest.fixture(scope="module")
def bucket(folder: Path) -> Iterator[str]:
    """A bucket on Ceph, reachable through the AWS_ variables."""
    if missing := missing_programs():
        pytest.skip(f"{', '.join(missing)} not installed: apt-get install radosgw ceph-mon ceph-osd ceph-common")
    with ceph_server(folder) as endpoint, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        patch.setenv("AWS_REGION", "us-east-1")
        clients._s3.cache_clear()
        boto3.client("s3").create_bucket(Bucket="jasper")
        yield "s3://jasper"
        clients._s3.cache_clear()


def test_without_the_checksum_setting_ceph_refuses_uploads_and_the_error_says_what_to_do(
    bucket: str, tmp_path: Path
) -> None:
    script = (
        "import sys; from jasper_ray.storage import object_store; object_store.write_bytes(sys.argv[1], b'x' * 100_000)"
    )
    command = [sys.executable, "-c", script, f"{bucket}/{tmp_path.name}/x"]

    def put(setting: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != clients.CHECKSUM_VARIABLE}
        if setting:
            environment[clients.CHECKSUM_VARIABLE] = setting
        return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=60)

    refused = put("when_supported")
    assert refused.returncode == 1
    assert "411" in refused.stderr and "AWS_REQUEST_CHECKSUM_CALCULATION=when_required" in refused.stderr
    assert put("").returncode == 0


def test_wrong_credentials_are_named(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    clients._s3.cache_clear()
    with pytest.raises(StorageError, match="check AWS_ACCESS_KEY_ID"):
        object_store.write_bytes(f"{bucket}/x", b"x")
    clients._s3.cache_clear()


def test_a_gateway_that_says_slow_down_is_asked_again(bucket: str, folder: Path, tmp_path: Path) -> None:
    uris = [f"{bucket}/{tmp_path.name}/{number}" for number in range(32)]
    limit_requests(folder, 1)
    try:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda uri: object_store.write_bytes(uri, uri.encode()), uris))
            assert list(pool.map(object_store.read_bytes, uris)) == [uri.encode() for uri in uris]
    finally:
        limit_requests(folder, 1024)


def test_corpus_to_error_rate_with_everything_on_ceph(bucket: str, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus" / "train", 40, seed=1)
    write_corpus(tmp_path / "corpus" / "evaluation", 12, seed=2)
    run = prepare_and_train(tmp_path / "corpus", f"{bucket}/run", tmp_path / "cache")
    assert run["figures"]["finished"] and run["checkpoints"] == ["00000008", "00000012"]
    assert run["evaluated"]["wer"] == run["figures"]["wer"]
