"""`jobs.prepare` in this process; `test_commands.py` runs it as a user does."""

import json
import sys
from pathlib import Path

import pytest
from tones import write_corpus

from jobs import prepare


def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit status, and the last line of stdout, or of stderr after a failure."""
    monkeypatch.setattr(sys, "argv", ["prepare", *map(str, arguments)])
    try:
        prepare.main()
    except SystemExit as end:
        return int(end.code or 0), capsys.readouterr().err.splitlines()[-1]
    return 0, capsys.readouterr().out.splitlines()[-1]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = write_corpus(tmp_path / "corpus", 6, seed=1)
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    rows = [row | {"split": "abc"[number // 2]} for number, row in enumerate(lines)]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize(
    ("where", "expected"), [([], 6), (["split=a"], 2), (["split=a", "split=c"], 4), (["split=c", "id2=x"], None)]
)
def test_where_takes_several_fields_and_several_values_of_one(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    corpus: Path,
    where: list[str],
    expected: int | None,
) -> None:
    options = ["--where", *where] if where else []
    status, last = run(monkeypatch, capsys, corpus, corpus.parent / "d", "--alphabet", "ab", *options)
    if expected is None:
        assert status == 1 and "where names 'id2'" in last and "split" in last
    else:
        assert status == 0 and json.loads(last)["num_utterances"] == expected


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--where", "train"], "--where 'train': must be FIELD=VALUE"),
        (["--threads", "0"], "--threads must be at least 1, got 0"),
        (["--shard-mb", "-1"], "--shard-mb: input should be greater than 0, got -1"),
        (["--speeds", "0.9,1"], "speeds must be different numbers from 0.5 to 2 without 1"),
        (["--min-duration-s", "3", "--max-duration-s", "2"], "max_duration_s=2.0 must be above min_duration_s=3.0"),
        (["--reject-text", "("], "reject_text='(' is not a regular expression"),
        (["--alphabet", "aa"], "alphabet must hold each character once"),
    ],
)
def test_a_wrong_option_ends_with_the_reason_and_writes_nothing(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    corpus: Path,
    options: list[str],
    reason: str,
) -> None:
    status, last = run(monkeypatch, capsys, corpus, corpus.parent / "d", *options)
    assert status == 1 and last.startswith("error: ") and reason in last
    assert not (corpus.parent / "d").exists()


def test_bad_files_are_left_out_and_reported_and_strict_refuses_them_with_the_list(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], corpus: Path
) -> None:
    bad = {"cut.flac": (corpus / "0.wav").read_bytes()[:300], "empty.wav": b"", "text.wav": b"<b>no sound</b>"}
    for name, content in bad.items():
        (corpus / name).write_bytes(content)
    with (corpus / "manifest.jsonl").open("a") as manifest:
        for name in bad:
            manifest.write(json.dumps({"audio": name, "text": "ab", "id": name, "split": "a"}) + "\n")
    status, last = run(monkeypatch, capsys, corpus, corpus.parent / "d", "--alphabet", "ab")
    told = json.loads(last)
    assert status == 0 and told["num_utterances"] == 6
    assert {item["id"] for item in told["rejected"]} == bad.keys()
    report = json.loads((corpus.parent / "d" / "report.json").read_text())
    assert report["rejected"] == told["rejected"] and report["rejected_by_kind"] == {"audio cannot be read": 3}
    page = (corpus.parent / "d" / "report.html").read_text()
    assert all(name in page for name in bad) and "&lt;b&gt;no sound" in page and "<b>no sound" not in page
    status, last = run(monkeypatch, capsys, corpus, corpus.parent / "e", "--alphabet", "ab", "--strict")
    assert status == 1 and "3 utterances" in last and all(name in last for name in bad)
    assert not (corpus.parent / "e" / "manifest.parquet").exists()
