"""Clients of object stores: which store a URI means, and the `pyarrow` filesystem that talks to it."""

import datetime
import os
from functools import lru_cache

import pyarrow.fs as pafs

from jasper_ray.errors import StorageError
from jasper_ray.storage.retries import VARIABLES, Limits, limits

CLIENT_ATTEMPTS = 3
"""Of the S3 client itself, per part of a large upload, without a word, in each of ours."""
# Ceph and others answer 411 to the trailing checksums that the AWS client sends unless told otherwise.
CHECKSUM_VARIABLE, CHECKSUM_DEFAULT = "AWS_REQUEST_CHECKSUM_CALCULATION", "when_required"
EMULATOR_VARIABLE = "STORAGE_EMULATOR_HOST"
"""Google's name for the address of a store that speaks its API; asked without credentials."""
SCHEMES = ("s3", "gs", "gcs")


def environment() -> dict[str, str]:
    """The variables of this process that decide how stores are reached; no secret is among them."""
    names = (
        "AWS_ENDPOINT_URL",
        "AWS_ENDPOINT_URL_S3",
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        EMULATOR_VARIABLE,
        *(variable for variable, _ in VARIABLES.values()),
    )
    given = {name: os.environ[name] for name in names if os.environ.get(name)}
    return {CHECKSUM_VARIABLE: os.environ.get(CHECKSUM_VARIABLE, CHECKSUM_DEFAULT), **given}


def open_store(uri: str) -> tuple[pafs.FileSystem, str]:
    """The client for a remote URI, and the object's path as the client wants it.

    Raises:
        StorageError: The URI has another scheme, or no bucket.
    """
    scheme, _, path = uri.partition("://")
    if scheme not in SCHEMES or not path.strip("/"):
        raise StorageError(f"{uri}: must be a local path, file://, s3://bucket/key or gs://bucket/key")
    if scheme == "s3":
        return _s3(_s3_endpoint(), _region(), limits()), path.rstrip("/")
    return _gcs(os.environ.get(EMULATOR_VARIABLE), limits()), path.rstrip("/")


def bucket_of(uri: str) -> str:
    """Name of the bucket of a remote URI."""
    return uri.partition("://")[2].partition("/")[0]


def store_of(uri: str) -> str:
    """Where a remote URI's requests go, for messages."""
    if uri.startswith("s3://"):
        return _s3_endpoint() or "Amazon S3; set AWS_ENDPOINT_URL for another"
    return os.environ.get(EMULATOR_VARIABLE) or "Google Cloud Storage"


def _s3_endpoint() -> str | None:
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")


@lru_cache(maxsize=16)
def _s3(endpoint: str | None, region: str | None, allowed: Limits) -> pafs.FileSystem:
    os.environ.setdefault(CHECKSUM_VARIABLE, CHECKSUM_DEFAULT)
    scheme, _, host = (endpoint or "").rpartition("://")
    return pafs.S3FileSystem(
        endpoint_override=host.rstrip("/") or None,
        scheme=scheme or "https",
        region=region or ("us-east-1" if host else None),
        connect_timeout=allowed.connect_timeout_s,
        request_timeout=allowed.request_timeout_s,
        # Uploads run in threads of ours. With pyarrow 26's own, `close` sometimes waited for ever for one to be done
        # (seen twice in runs of the tests, 2026-11, as a stack in ObjectOutputStream::Close).
        background_writes=False,
        allow_delayed_open=True,  # a small object is one request, not three
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=CLIENT_ATTEMPTS),
    )


@lru_cache(maxsize=16)
def _gcs(emulator: str | None, allowed: Limits) -> pafs.FileSystem:
    # The client retries by itself within this time; ours come on top.
    patience = datetime.timedelta(seconds=max(1, round(allowed.request_timeout_s)))
    if not emulator:
        return pafs.GcsFileSystem(retry_time_limit=patience)
    scheme, _, host = emulator.rpartition("://")
    return pafs.GcsFileSystem(
        anonymous=True, endpoint_override=host.rstrip("/"), scheme=scheme or "http", retry_time_limit=patience
    )
