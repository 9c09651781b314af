import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from jasper_ray.errors import StorageError
from jasper_ray.storage import object_store, store_path
from jasper_ray.storage.store_path import CorpusPath, StorePath, corpus_path, placed, read_part

FILES = {
    "wav.scp": b"one\r\ntwo\n",
    "a/1.flac": bytes(range(256)) * 2_000,
    "a/2.flac": b"second",
    "a-b/1.flac": b"",
    "a/deep/3.flac": b"third",
}


@pytest.fixture
def places(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, CorpusPath]:
    """The same files on a disk and in a bucket."""
    bucket = request.getfixturevalue(getattr(request, "param", "s3_bucket"))
    for name, content in FILES.items():
        for uri in (str(tmp_path / "corpus"), f"{bucket}/{tmp_path.name}"):
            object_store.write_bytes(object_store.join(uri, name), content)
    return {"disk": tmp_path / "corpus", "bucket": corpus_path(f"{bucket}/{tmp_path.name}")}


def lines(path: CorpusPath) -> list[str]:
    with path.open(encoding="utf-8") as file:
        return list(file)


def size_of(path: CorpusPath) -> int | str:
    try:
        return path.stat().st_size if path.is_file() else "folder" if path.stat() else ""
    except FileNotFoundError:
        return "nothing"


SAME: dict[str, Callable[[CorpusPath], object]] = {
    "names": lambda p: (
        (p / "a/1.flac").name,
        (p / "a/1.flac").stem,
        (p / "a/1.flac").suffix,
        (p / "a/1.flac").parent.name,
    ),
    "what is there": lambda p: [(p / n).exists() for n in ("", "a", "a/1.flac", "a/deep", "b", "a/1", "a/1.flac/x")],
    "folders": lambda p: [(p / n).is_dir() for n in ("", "a", "a/1.flac", "b")],
    "files": lambda p: [(p / n).is_file() for n in ("a", "a/1.flac", "a-b/1.flac", "b")],
    "sizes": lambda p: [size_of(p / n) for n in ("a", "a/1.flac", "a/2.flac", "a-b/1.flac", "none", "none/at/all")],
    "children": lambda p: sorted(child.name for child in p.iterdir()),
    "by name": lambda p: sorted(child.name for child in (p / "a").glob("*.flac")),
    "at any depth": lambda p: sorted(found.parts[len(p.parts) :] for found in p.rglob("*.flac")),
    "upwards": lambda p: (p / "a/../wav.scp").read_bytes(),
    "bytes": lambda p: (p / "a/1.flac").read_bytes(),
    "text": lambda p: (p / "wav.scp").read_text(encoding="utf-8"),
    "lines": lambda p: lines(p / "wav.scp"),
    "a part": lambda p: read_part(p / "a/1.flac", 300, 1_000),
    "a part beyond the end": lambda p: read_part(p / "a/1.flac", 511_999, 1_000),
}


@pytest.mark.parametrize("places", ["s3_bucket", "gs_bucket"], indirect=True)
@pytest.mark.parametrize("question", SAME)
def test_a_bucket_answers_like_a_disk(places: dict[str, CorpusPath], question: str) -> None:
    ask = SAME[question]
    assert ask(places["bucket"]) == ask(places["disk"])


def test_a_stream_reads_anywhere(places: dict[str, CorpusPath]) -> None:
    content = FILES["a/1.flac"]
    with (places["bucket"] / "a/1.flac").open("rb") as file:
        for position, count in ((0, 10), (400_000, 100_000), (10, 200_000), (511_990, 100), (600_000, 5), (0, -1)):
            assert file.seek(position) == position
            assert file.read(count) == (content[position:] if count < 0 else content[position : position + count])
            assert file.tell() == max(position, min(position + (count if count > 0 else len(content)), len(content)))


def test_reading_on_takes_few_requests(places: dict[str, CorpusPath], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    read_at = object_store.ObjectReader.read_at
    monkeypatch.setattr(object_store.ObjectReader, "read_at", lambda *call: asked.append(call[2]) or read_at(*call))
    with (places["bucket"] / "a/1.flac").open("rb") as file:
        while file.read(1_000):
            pass
    assert asked[:3] == [store_path.FIRST_READ_BYTES * factor for factor in (1, 2, 4)]
    assert len(asked) <= 5


def test_many_files_of_a_folder_are_few_requests(
    places: dict[str, CorpusPath], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for name in ("look", "list_entries"):
        ask = getattr(object_store, name)
        monkeypatch.setattr(object_store, name, lambda uri, ask=ask, **more: asked.append(uri) or ask(uri, **more))
    sizes = [size_of(places["bucket"] / "a" / "2.flac") for _ in range(1_000)]
    assert sizes == [6] * 1_000
    assert len(asked) == store_path.NUM_SINGLE_LOOKS + 1
    assert len(list(places["bucket"].rglob("*"))) == len(FILES)
    assert size_of(places["bucket"] / "a-b" / "1.flac") == 0
    assert len(asked) == store_path.NUM_SINGLE_LOOKS + 2


def test_a_path_travels_as_its_uri(places: dict[str, CorpusPath]) -> None:
    path = places["bucket"] / "a/2.flac"
    list(places["bucket"].rglob("*"))
    packed = pickle.dumps(path)
    assert len(packed) < 200
    again = pickle.loads(packed)
    assert again == path and hash(again) == hash(path) and again.read_bytes() == b"second"


def test_a_name_in_a_corpus_may_be_anywhere(tmp_path: Path) -> None:
    bucket = StorePath("s3://bucket/corpus")
    assert str(placed(bucket, "a/b.wav")) == "s3://bucket/corpus/a/b.wav"
    assert str(placed(bucket, "../b.wav")) == "s3://bucket/b.wav"
    assert str(placed(bucket, "../../../b.wav")) == "s3://bucket/b.wav"
    assert str(placed(tmp_path, "s3://other/b.wav")) == "s3://other/b.wav"
    assert placed(bucket, "/mnt/b.wav") == Path("/mnt/b.wav")
    assert placed(tmp_path, "b.wav") == tmp_path / "b.wav"


def test_what_is_not_there_is_named(places: dict[str, CorpusPath]) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.flac"):
        (places["bucket"] / "none.flac").stat()
    with pytest.raises(StorageError, match=r"none\.flac"):
        (places["bucket"] / "none.flac").open("rb")
    with pytest.raises(StorageError, match="there is no bucket 'nowhere'"):
        StorePath("s3://nowhere/corpus").exists()
    with pytest.raises(StorageError, match="there is no bucket 'nowhere'"):
        StorePath("s3://nowhere").exists()
