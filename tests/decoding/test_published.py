import gzip
import http.server
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from jasper_ray.data.transfer import DownloadOptions
from jasper_ray.decoding import published
from jasper_ray.decoding.language_model import build_language_model, import_language_model, load_language_model
from jasper_ray.decoding.published import fetch_published
from jasper_ray.errors import DataError, StorageError

PATIENCE = DownloadOptions(timeout_s=20, max_attempts=2, backoff_s=0.01)


def nothing(name: str, done: int, total: int) -> None:
    pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """A web server for a folder, in place of the mirrors."""
    folder = tmp_path / "published"
    folder.mkdir()
    monkeypatch.setattr(published, "MIRRORS", ())
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}", folder
        listening.shutdown()


def arpa_in_capitals(tmp_path: Path) -> bytes:
    build_language_model(["the cat sat", "the cat ran", "a cat"], str(tmp_path / "ours"), order=3)
    text = (tmp_path / "ours" / "model.arpa").read_text()
    return text.replace("cat", "CAT").replace("the", "THE").replace("sat", "SAT").replace("ran", "RAN").encode()


def test_a_published_model_is_fetched_once_and_written_in_lower_case(server: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = server
    (folder / "3-gram.pruned.1e-7.arpa.gz").write_bytes(gzip.compress(arpa_in_capitals(tmp_path)))
    told = []
    arpa = fetch_published(
        "librispeech:3-gram.pruned.1e-7",
        tmp_path / "downloads",
        progress=lambda *state: told.append(state),
        mirror=address,
        options=PATIENCE,
    )
    assert arpa.read_text() == (tmp_path / "ours" / "model.arpa").read_text().lower()
    assert told[-1][1] == told[-1][2] > 0
    (folder / "3-gram.pruned.1e-7.arpa.gz").unlink()
    assert fetch_published("librispeech:3-gram.pruned.1e-7", tmp_path / "downloads", progress=nothing) == arpa
    config = import_language_model(
        arpa, None, str(tmp_path / "lm"), unit="word", source="librispeech:3-gram.pruned.1e-7"
    )
    assert (config.order, config.num_words) == (3, 5)
    model = load_language_model(str(tmp_path / "lm"))
    assert set(model.words) == {"the", "cat", "sat", "ran", "a"}


@pytest.mark.parametrize("damage", ["cut", "short", "no gzip"])
def test_what_is_not_whole_is_refused_and_deleted(damage: str, server: tuple[str, Path], tmp_path: Path) -> None:
    address, folder = server
    arpa = arpa_in_capitals(tmp_path)
    content = {
        "cut": gzip.compress(arpa)[:-20],
        "short": gzip.compress(arpa.replace(b"\\2-grams:", b"\\2-grams:\n-1\tX Y", 1)),
        "no gzip": b"<html>moved</html>",
    }[damage]
    (folder / "3-gram.arpa.gz").write_bytes(content)
    with pytest.raises(DataError, match="no whole ARPA file"):
        fetch_published("librispeech:3-gram", tmp_path / "d", progress=nothing, mirror=address, options=PATIENCE)
    assert [path.name for path in (tmp_path / "d").iterdir() if not path.name.startswith(".")] == []


def test_names_and_mirrors_that_do_not_exist_are_named(server: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no language model '5-gram'. It has: 3-gram"):
        fetch_published("librispeech:5-gram", tmp_path, progress=nothing)
    with pytest.raises(StorageError, match=r"no mirror has the language model: .*4-gram\.arpa\.gz: HTTP Error 404"):
        fetch_published("librispeech:4-gram", tmp_path, progress=nothing, mirror=server[0], options=PATIENCE)
    with pytest.raises(DataError, match="must begin with http"):
        fetch_published("librispeech:4-gram", tmp_path, progress=nothing, mirror="ftp://x")
