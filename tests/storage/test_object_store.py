import os
from pathlib import Path

import pytest

from jasper_ray.errors import StorageError
from jasper_ray.storage import object_store


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same tests on a local folder and on a real S3 server."""
    if request.param == "local":
        return str(tmp_path / "root")
    return str(request.getfixturevalue("s3_bucket")) + f"/{tmp_path.name}"


def test_what_was_written_is_read_listed_and_deleted(root: str) -> None:
    uri = object_store.join(root, "a/b", "c.txt")
    assert not object_store.exists(uri)
    object_store.write_bytes(uri, b"one")
    object_store.write_bytes(uri, b"two")
    object_store.write_bytes(object_store.join(root, "a/d.txt"), b"")
    assert object_store.read_bytes(uri) == b"two"
    assert object_store.exists(uri) and not object_store.exists(object_store.join(root, "a"))
    assert object_store.list_files(root) == ["a/b/c.txt", "a/d.txt"]
    assert object_store.list_folders(object_store.join(root, "a")) == ["b"]
    object_store.delete_file(uri)
    object_store.delete_file(uri)  # a second time is no error
    assert object_store.list_files(root) == ["a/d.txt"]
    object_store.delete_tree(root)
    assert object_store.list_files(root) == [] and object_store.list_folders(root) == []


def test_a_missing_file_is_named(root: str) -> None:
    with pytest.raises(StorageError, match=r"nothing\.here"):
        object_store.read_bytes(object_store.join(root, "nothing.here"))


def test_folders_go_up_and_down_whole(root: str, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    content = {"x.bin": os.urandom(3_000_000), "deep/er/y.txt": b"y", "LAST": b"done"}
    for name, data in content.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    object_store.upload_folder(source, object_store.join(root, "up"), last="LAST")
    object_store.download_folder(object_store.join(root, "up"), target)
    assert {path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*.*")} == {
        name: data for name, data in content.items() if "." in name
    }
    assert (target / "LAST").read_bytes() == b"done"


def test_the_last_file_comes_after_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CHECKSUMS", "a", "z"):
        (tmp_path / name).write_text(name)
    order: list[str] = []
    monkeypatch.setattr(object_store, "upload_file", lambda local, uri: order.append(local.name))
    object_store.upload_folder(tmp_path, "anywhere", last="CHECKSUMS")
    assert order == ["a", "z", "CHECKSUMS"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "file")
    object_store.write_bytes(uri, b"old")

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="No space left on device"):
        object_store.write_bytes(uri, b"new")
    assert object_store.read_bytes(uri) == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_passing_faults_are_tried_again_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store.time, "sleep", lambda seconds: None)
    faults = [OSError("AWS Error UNKNOWN (HTTP status 503)"), OSError("AWS Error NETWORK_CONNECTION: timeout")]

    def flaky() -> str:
        if faults:
            raise faults.pop()
        return "done"

    assert object_store._remote("s3://b/k", flaky) == "done"
    calls: list[int] = []

    def denied() -> None:
        calls.append(1)
        raise OSError("AWS Error ACCESS_DENIED: no")

    with pytest.raises(StorageError, match=r"s3://b/k.*ACCESS_DENIED.*Check AWS_ACCESS_KEY_ID"):
        object_store._remote("s3://b/k", denied)
    assert len(calls) == 1


def test_wrong_credentials_say_which_store_and_what_to_check(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    object_store._filesystem.cache_clear()
    try:
        with pytest.raises(StorageError, match=r"127\.0\.0\.1.*Check AWS_ACCESS_KEY_ID"):
            object_store.write_bytes(f"{s3_bucket}/x", b"x")
    finally:
        object_store._filesystem.cache_clear()


def test_a_missing_bucket_is_named(s3_bucket: str) -> None:
    with pytest.raises(StorageError, match="s3://no-such-bucket/x"):
        object_store.read_bytes("s3://no-such-bucket/x")


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(StorageError, match="ftp://x/y: must be a local path"):
        object_store.read_bytes("ftp://x/y")
