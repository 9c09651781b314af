"""The benchmark book with passes that are made up: what is written, what is compared, what the README shows."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from jasper_ray.errors import ConfigError
from jobs.benchmarks import book
from jobs.benchmarks.book_page import BEGIN, END, readme_section, readme_with

REPOSITORY = Path(__file__).parents[2]
BOOKS = REPOSITORY / "docs" / "benchmarks"


def figure(what: str, ratio: float) -> dict[str, Any]:
    return {"part": "train", "what": what, "over": "yardstick", "ratio": ratio, "rate": 12.5, "unit": "steps per s"}


def measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *ratios: dict[str, float], readme: Path | None = None
) -> Any:
    """A book of passes that gave these ratios."""
    passes = [[figure(what, value) for what, value in one.items()] for one in ratios]
    monkeypatch.setattr(book, "_passes", lambda count, limit_s, say: passes)
    arguments = argparse.Namespace(write=folder, readme=readme, passes=len(passes), minutes=15.0)
    return book.measure_book(arguments, lambda line: None)


def test_a_first_book_has_nothing_to_be_compared_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = measured(tmp_path, monkeypatch, {"step": 2.0}, {"step": 2.1}, {"step": 1.9})
    assert result["compared_with"] is None and result["moved"] == []
    page = Path(result["written"])
    assert "no earlier book" in page.read_text()
    assert page.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    assert json.loads(page.with_suffix(".json").read_text())["figures"][0]["passes"] == [2.0, 2.1, 1.9]


def test_the_next_book_names_what_moved_and_only_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ({"step": 2.0, "read": 5.0}, {"step": 2.02, "read": 5.5}, {"step": 1.98, "read": 4.6})
    measured(tmp_path, monkeypatch, *first)
    again = ({"step": 1.2, "read": 5.2}, {"step": 1.21, "read": 4.7}, {"step": 1.19, "read": 5.4})
    result = measured(tmp_path, monkeypatch, *again)
    assert result["moved"] == ["train: step / yardstick"]
    page = Path(result["written"]).read_text()
    assert "Beyond noise: train: step / yardstick." in page and "**-40.0 %**" in page
    assert len(list(tmp_path.glob("*.json"))) == 2  # of one day


@pytest.mark.parametrize("change", [{"format": 0}, {"hardware": {"cpu": "other"}}])
def test_a_book_of_another_format_or_machine_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    written = measured(tmp_path, monkeypatch, {"step": 2.0}, {"step": 2.1})["written"]
    path = Path(written).with_suffix(".json")
    old = json.loads(path.read_text())
    for key, value in change.items():
        old[key] = {**old[key], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(old))
    assert measured(tmp_path, monkeypatch, {"step": 1.0}, {"step": 1.1})["compared_with"] is None


def test_the_table_goes_between_the_readmes_marks_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"# above\n{BEGIN}\nold\n{END}\n# below\n")
    measured(tmp_path / "books", monkeypatch, {"step": 2.0}, {"step": 2.1}, readme=readme)
    text = readme.read_text()
    assert text.startswith("# above\n") and text.endswith("# below\n")
    assert "old" not in text and "| train | step | yardstick | 2.05 |" in text
    with pytest.raises(ConfigError, match="no place for the table"):
        readme_with("# nothing\n", book.books(tmp_path / "books")[-1])


def test_the_readme_shows_the_latest_book() -> None:
    latest = book.books(BOOKS)[-1]
    text = (REPOSITORY / "README.md").read_text()
    assert text.partition(BEGIN)[2].partition(END)[0] == "\n" + readme_section(latest)
    for suffix in (".md", ".png"):
        assert (BOOKS / latest["name"]).with_suffix(suffix).exists()


def test_passes_end_when_the_time_is_over_but_not_before_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "_run_pass", lambda file: file.write_text("[]"))
    assert len(book._passes(5, 0.0, lambda line: None)) == 3
    assert len(book._passes(5, 60.0, lambda line: None)) == 5
