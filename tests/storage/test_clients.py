import os

import pytest

from jasper_ray.storage import clients


def test_the_variables_for_other_processes_hold_no_secret_and_the_checksum_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in list(os.environ):
        if name.startswith(("AWS_", "JASPER_STORE_", "STORAGE_")):
            monkeypatch.delenv(name)
    assert clients.environment() == {"AWS_REQUEST_CHECKSUM_CALCULATION": "when_required"}
    given = {
        "AWS_ENDPOINT_URL": "http://there",
        "AWS_REGION": "r",
        "JASPER_STORE_ATTEMPTS": "3",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_supported",
    }
    for name, value in {**given, "AWS_SECRET_ACCESS_KEY": "secret", "AWS_ACCESS_KEY_ID": "id"}.items():
        monkeypatch.setenv(name, value)
    assert clients.environment() == given


@pytest.mark.parametrize("uri", ["ftp://x/y", "s3://", "s3:///", "gs://"])
def test_a_uri_without_store_or_bucket_is_refused(uri: str) -> None:
    with pytest.raises(OSError, match="must be a local path, file://, s3://bucket/key or gs://bucket/key"):
        clients.open_store(uri)


def test_clients_are_shared_until_the_environment_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    first, path = clients.open_store("s3://bucket/a/b")
    assert path == "bucket/a/b" and clients.open_store("s3://other/c")[0] is first
    monkeypatch.setenv("JASPER_STORE_REQUEST_TIMEOUT_S", "7")
    assert clients.open_store("s3://bucket/a/b")[0] is not first
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:2")
    assert clients.store_of("s3://bucket/a") == "http://127.0.0.1:2"
    assert clients.store_of("gs://bucket/a") == "Google Cloud Storage"
