import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from archive_server import serving

from jasper_ray.config.data import CorpusConfig
from jasper_ray.data import librispeech_archives
from jasper_ray.data.librispeech_archives import ARCHIVES, Archive, fetch_subset, subsets_of
from jasper_ray.data.readers.corpus import CorpusUtterance
from jasper_ray.data.readers.registry import detect_format, read_corpus
from jasper_ray.errors import DataError, StorageError

SUBSETS = ("dev-clean", "test-clean")


def write_librispeech(root: Path, subset: str, seed: int) -> None:
    """A corpus of some chapters with noise instead of speech."""
    random = np.random.default_rng(seed)
    for speaker, chapter in ((seed + 10, 7), (seed + 9, 7), (seed + 10, 11)):
        folder = root / "LibriSpeech" / subset / str(speaker) / str(chapter)
        folder.mkdir(parents=True)
        names = [f"{speaker}-{chapter}-{number:04d}" for number in range(3)]
        for name in names:
            soundfile.write(folder / f"{name}.flac", random.normal(scale=0.1, size=2000), 16_000)
        lines = "".join(f"{name} WORD {name[-1]}\n" for name in names)
        (folder / f"{speaker}-{chapter}.trans.txt").write_text(lines)


def pack(root: Path) -> bytes:
    """The corpus as an archive whose files are in no order."""
    buffer = io.BytesIO()
    files = sorted(root.rglob("*.*"), key=lambda path: hashlib.md5(path.name.encode()).digest())
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path in files:
            archive.add(path, str(path.relative_to(root)))
    return buffer.getvalue()


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Small archives in place of the real ones; their contents lie in `corpus/` too."""
    files = {}
    monkeypatch.setattr(librispeech_archives, "MIRRORS", ())
    archives = dict(ARCHIVES)
    for seed, subset in enumerate(SUBSETS):
        write_librispeech(tmp_path / "corpus" / subset, subset, seed)
        content = files[f"{subset}.tar.gz"] = pack(tmp_path / "corpus" / subset)
        archives[subset] = Archive(len(content), hashlib.md5(content).hexdigest())
    monkeypatch.setattr(librispeech_archives, "ARCHIVES", archives)
    return files


def described(utterances: list[CorpusUtterance]) -> list[tuple[object, ...]]:
    return [(u.id, u.text, u.speaker, u.path, u.fields, u.audio.num_bytes, u.audio.read()) for u in utterances]


def test_a_corpus_by_name_is_what_the_unpacked_folder_gives(tmp_path: Path, published: dict[str, bytes]) -> None:
    folders = [CorpusConfig(source=str(tmp_path / "corpus" / subset)) for subset in SUBSETS]
    expected = [row for config in folders for row in described(list(read_corpus(config)))]
    assert len(expected) == 18
    with serving(published) as server:
        config = CorpusConfig(
            source="librispeech:dev-clean,test-clean", download_dir=str(tmp_path / "d"), mirror=server.url
        )
        assert described(list(read_corpus(config))) == expected
        num_requests = len(server.requests)
        assert described(list(read_corpus(config))) == expected
        assert len(server.requests) == num_requests == 2
    where = config.model_copy(update={"where": {"subset": "test-clean"}})
    assert described(list(read_corpus(where))) == expected[9:]


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz"])
def test_an_archive_that_is_there_already_is_read_by_its_path(
    tmp_path: Path, published: dict[str, bytes], name: str
) -> None:
    content = published["dev-clean.tar.gz"]
    expected = described(list(read_corpus(CorpusConfig(source=str(tmp_path / "corpus" / "dev-clean")))))
    if name.endswith(".tar"):
        with tarfile.open(fileobj=io.BytesIO(content)) as archive, tarfile.open(tmp_path / name, "w") as plain:
            for member in archive:
                plain.addfile(member, archive.extractfile(member))
    else:
        (tmp_path / name).write_bytes(content)
    found = described(list(read_corpus(CorpusConfig(source=str(tmp_path / name)))))
    assert sorted(found, key=lambda row: str(row[0])) == sorted(expected, key=lambda row: str(row[0]))
    assert found == expected or name.endswith(".gz")


def test_the_archive_stays_or_goes_as_it_is_asked(tmp_path: Path, published: dict[str, bytes]) -> None:
    with serving(published) as server:
        for keep in (True, False):
            folder = tmp_path / f"keep-{keep}"
            tar = fetch_subset(
                "dev-clean", folder, progress=lambda *_: None, mirror=server.url.rstrip("/"), keep_archive=keep
            )
            assert tar == folder / "dev-clean.tar"
            there = {file.name for file in folder.iterdir() if file.name[0] != "."}
            assert there == {"dev-clean.tar"} | ({"dev-clean.tar.gz"} if keep else set())


def test_a_mirror_may_be_named_in_the_environment(
    tmp_path: Path, published: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(published) as server:
        monkeypatch.setenv("JASPER_LIBRISPEECH_MIRROR", server.url)
        assert fetch_subset("dev-clean", tmp_path, progress=lambda *_: None).exists()
    monkeypatch.setenv("JASPER_LIBRISPEECH_MIRROR", "/a/folder")
    with pytest.raises(DataError, match=r"mirror '/a/folder': must begin with http"):
        fetch_subset("test-clean", tmp_path, progress=lambda *_: None)


def test_an_archive_that_does_not_unpack_is_named_and_leaves_no_tar(
    tmp_path: Path, published: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = published["dev-clean.tar.gz"][:-100]
    archive = Archive(len(content), hashlib.md5(content).hexdigest())
    monkeypatch.setitem(librispeech_archives.ARCHIVES, "dev-clean", archive)
    with (
        serving({"dev-clean.tar.gz": content}) as server,
        pytest.raises(StorageError, match=r"dev-clean\.tar\.gz: is damaged although its MD5 is right"),
    ):
        fetch_subset("dev-clean", tmp_path / "d", progress=lambda *_: None, mirror=server.url)
    assert not list((tmp_path / "d").glob("*.tar"))


def test_what_a_process_killed_while_unpacking_has_left_is_overwritten(
    tmp_path: Path, published: dict[str, bytes]
) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "dev-clean.tar.part").write_bytes(b"half a tar" * 200_000)
    with serving(published) as server:
        tar = fetch_subset("dev-clean", tmp_path / "d", progress=lambda *_: None, mirror=server.url)
    assert tar.stat().st_size < 10**6
    assert sorted(file.name for file in tar.parent.iterdir() if file.name[0] != ".") == [
        "dev-clean.tar",
        "dev-clean.tar.gz",
    ]


def test_a_tar_of_samples_that_are_named_like_librispeechs_is_not_taken_for_it(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("84/1/84-1-0000.flac", "84/1/84-1-0000.txt", "84/1/84-1-0001.flac"):
            archive.addfile(tarfile.TarInfo(name))
    assert detect_format(tmp_path / "a.tar") == "webdataset"


def test_the_seven_subsets_can_be_named_and_no_other() -> None:
    assert subsets_of(f"librispeech:{','.join(ARCHIVES)}") == tuple(ARCHIVES)
    assert len(ARCHIVES) == 7 and all(len(archive.md5) == 32 for archive in ARCHIVES.values())
    with pytest.raises(DataError, match=r"no subset 'dev'\. It has: dev-clean, dev-other, .*train-other-500"):
        subsets_of("librispeech:dev")
    with pytest.raises(DataError, match="names a subset twice"):
        subsets_of("librispeech:dev-clean,dev-clean")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("1-2.trans.txt", r"a\.tar/L/d/1/2/1-2\.trans\.txt, line 2: 1-2-0001: audio 1-2-0001\.flac is not in .*a\.tar"),
        ("1-2-0009.flac", r"a\.tar/L/d/1/2/1-2\.trans\.txt: has no line for 1-2-0009\.flac"),
    ],
)
def test_a_tar_whose_files_do_not_match_is_named(tmp_path: Path, name: str, reason: str) -> None:
    members = {"1-2-0000.flac": b"a", "1-2.trans.txt": b"1-2-0000 HI\n", name: b"1-2-0000 HI\n1-2-0001 YOU\n"}
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for member_name, content in members.items():
            member = tarfile.TarInfo(f"L/d/1/2/{member_name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with pytest.raises(DataError, match=reason):
        list(read_corpus(CorpusConfig(source=str(tmp_path / "a.tar"))))
