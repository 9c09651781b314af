import io
import logging
from pathlib import Path

import pytest
from rich.console import Console

from jasper_ray.config.data import CorpusConfig
from jasper_ray.data.download import Progress
from jasper_ray.errors import DataError
from jobs import downloading


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the subsets that were fetched, each in four steps of a quarter."""
    names: list[str] = []

    def fetch(corpus: CorpusConfig, subset: str, progress: Progress) -> Path:
        names.append(subset)
        for done in (0, 250, 500, 1000):
            progress(f"{subset}.tar.gz", done, 1000)
        return Path(f"{subset}.tar")

    monkeypatch.setattr(downloading, "fetch_by_name", fetch)
    return names


def test_what_is_fetched_is_shown_as_a_bar_on_a_terminal(fetched: list[str]) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    downloading.fetch_corpus(CorpusConfig(source="librispeech:dev-clean,test-clean"), console)
    assert fetched == ["dev-clean", "test-clean"]
    assert "test-clean.tar.gz" in out.getvalue() and "1.0/1.0 kB" in out.getvalue()


def test_and_as_lines_in_a_log(fetched: list[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        downloading.fetch_corpus(CorpusConfig(source="librispeech:dev-clean"), Console(file=io.StringIO()))
    lines = [record.message for record in caplog.records]
    assert len(lines) == 4 and lines[0].startswith("dev-clean.tar.gz: 0.00 of")


def test_a_path_needs_no_download_and_an_unknown_subset_is_refused(fetched: list[str]) -> None:
    downloading.fetch_corpus(CorpusConfig(source="/a/folder"), Console(file=io.StringIO()))
    with pytest.raises(DataError, match="no subset 'dev'"):
        downloading.fetch_corpus(CorpusConfig(source="librispeech:dev"), Console(file=io.StringIO()))
    assert fetched == []
