"""The benchmark book: passes over every part, one dated result, and what changed since the last one.

Each pass runs in a process of its own, so that its figures differ by whatever chance does to a process, and the passes
lie minutes apart. Comparisons are of ratios only: absolute rates move with the machine's clock and its other work.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from jasper_ray.errors import JasperRayError
from jobs.benchmarks.book_page import readme_with, write_page, write_picture
from jobs.benchmarks.corpus import speech_folder
from jobs.benchmarks.loader import hardware, versions
from jobs.benchmarks.noise import Change, centre, changes

FORMAT = 1
"""Raised whenever a part measures something else under the same name: other formats are not compared."""
SUFFIX = "book"
MIN_PASSES = 3
HARDWARE_KEYS = ("cpu", "cpus", "cpu_capability", "gpu", "speech")
REPOSITORY = Path(__file__).parents[2]
MEASURED = ("jasper_ray", "serve", "benchmarks", "jobs")
"""Folders whose changes since the commit are said."""


def measure_book(arguments: argparse.Namespace, say: Callable[[str], None]) -> Mapping[str, Any]:
    """Measure, write `DATE-book.json`, `.md` and `.png`, and put the table into the README.

    Returns:
        Where it was written and what changed by more than noise.
    """
    folder: Path = arguments.write
    before = last_comparable(books(folder), machine())
    started_s = time.monotonic()
    passes = _passes(arguments.passes, 60 * arguments.minutes, say)
    book = _summary(passes, time.monotonic() - started_s)
    book["changes"], book["compared_with"] = [], None
    if before is not None:
        compared = changes(_ratios(before), _ratios(book))
        book["changes"] = [_change_row(change) for change in compared]
        book["compared_with"] = {key: before[key] for key in ("name", "date", "commit")}
    path = _write(book, folder)
    if arguments.readme is not None:
        arguments.readme.write_text(readme_with(arguments.readme.read_text(), book))
    moved = [row["name"] for row in book["changes"] if not row["is_noise"]]
    say(f"written: {path}; beyond noise: {', '.join(moved) or 'nothing'}")
    return {"written": str(path), "minutes": book["minutes"], "compared_with": book["compared_with"], "moved": moved}


def _passes(count: int, limit_s: float, say: Callable[[str], None]) -> list[list[dict[str, Any]]]:
    """As many passes as fit into the time, three at least."""
    passes: list[list[dict[str, Any]]] = []
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            spent_s = time.monotonic() - started_s
            if number >= MIN_PASSES and spent_s * (number + 1) / number > limit_s:
                say(f"no time for pass {number + 1} of {count}: {spent_s:.0f} s of {limit_s:.0f} are over")
                break
            file = Path(folder) / f"{number}.json"
            _run_pass(file)
            passes.append(json.loads(file.read_text()))
            say(f"pass {number + 1} of {count}: {time.monotonic() - started_s - spent_s:.0f} s")
    return passes


def _run_pass(file: Path) -> None:
    command = [sys.executable, "-m", "jobs.benchmarks.book_pass", str(file)]
    # Ray's workers would otherwise wait for whoever measures them.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise JasperRayError(f"a pass of the benchmark failed: {' '.join(done.stderr.strip().splitlines()[-1:])}")


def _summary(passes: Sequence[Sequence[Mapping[str, Any]]], seconds: float) -> dict[str, Any]:
    """What all passes say of each figure."""
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for figures in passes:
        for figure in figures:
            by_name.setdefault(f"{figure['part']}: {figure['what']} / {figure['over']}", []).append(figure)
    rows = [
        {
            "name": name,
            **{key: of_one[0][key] for key in ("part", "what", "over", "unit")},
            "ratio": centre([figure["ratio"] for figure in of_one]),
            "passes": [figure["ratio"] for figure in of_one],
            "rate": centre([figure["rate"] for figure in of_one]),
        }
        for name, of_one in by_name.items()
        if len(of_one) == len(passes)
    ]
    return {
        "benchmark": SUFFIX,
        "format": FORMAT,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "command": "make bench",
        "minutes": round(seconds / 60, 1),
        "passes": len(passes),
        "hardware": {**hardware(), **machine()},
        "versions": versions(),
        "figures": rows,
    }


def machine() -> dict[str, Any]:
    """What must be equal for two books to be compared."""
    speech = "noise" if speech_folder() is None else "LibriSpeech"  # a decoder likes noise less
    known = {**hardware(), "cpu_capability": torch.backends.cpu.get_cpu_capability(), "speech": speech}
    return {key: known[key] for key in HARDWARE_KEYS}


def books(folder: Path) -> list[dict[str, Any]]:
    """All books of a folder, oldest first, each with the `name` of its files."""
    found = [{**json.loads(path.read_text()), "name": path.stem} for path in folder.glob(f"*-{SUFFIX}*.json")]
    return sorted(found, key=lambda book: str(book["date"]))


def last_comparable(found: Sequence[dict[str, Any]], on: Mapping[str, Any]) -> dict[str, Any] | None:
    """The latest book of the same format from hardware like this."""
    alike = [
        book
        for book in found
        if book["format"] == FORMAT and {key: book["hardware"][key] for key in HARDWARE_KEYS} == on
    ]
    return alike[-1] if alike else None


def _ratios(book: Mapping[str, Any]) -> dict[str, list[float]]:
    return {row["name"]: row["passes"] for row in book["figures"]}


def _change_row(change: Change) -> dict[str, Any]:
    return {
        "name": change.name, "before": change.before, "after": change.after, "relative": change.relative,
        "limit": change.limit, "is_noise": change.is_noise,
    }  # fmt: skip


def _write(book: dict[str, Any], folder: Path) -> Path:
    """Three files of one name; a second book of a day has a number."""
    folder.mkdir(parents=True, exist_ok=True)
    day, number = book["date"][:10], 1
    while (path := folder / f"{day}-{SUFFIX}{'' if number == 1 else f'-{number}'}.json").exists():
        number += 1
    book["name"] = path.stem
    path.write_text(json.dumps(book, indent=1) + "\n")
    write_picture(book, path.with_suffix(".png"))
    write_page(book, path.with_suffix(".md"))
    return path.with_suffix(".md")


def _commit() -> str:
    """The commit that was measured, with `+` if files were changed; empty where there is no git."""
    try:
        answers = [
            subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
            for arguments in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--", *MEASURED))
        ]
    except (OSError, subprocess.CalledProcessError):
        return ""
    return answers[0].strip() + ("+" if answers[1].strip() else "")


def add_book_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of the part."""
    parser.add_argument("--write", type=Path, metavar="FOLDER", default=Path("docs/benchmarks"), help="(%(default)s)")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="also put the table into this file")
    parser.add_argument("--passes", type=_passes_number, default=4, help="over all parts, 2 or more (%(default)s)")
    parser.add_argument(
        "--minutes", type=float, default=15.0, help="no pass is begun that would end later (%(default)s)"
    )


def _passes_number(text: str) -> int:
    value = int(text)
    if value < 2:
        raise argparse.ArgumentTypeError(f"must be at least 2, or there is no spread; got {value}")
    return value
