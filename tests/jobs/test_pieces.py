"""Evaluation and transcription in pieces, in this process; `tests/cluster/test_piece_jobs.py` has them on two nodes."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from random_bundle import save_random_bundle
from tones import prepare_tones

from jasper_ray.decoding.decoder import GreedyDecoder
from jasper_ray.model.bundle import load_bundle
from jasper_ray.training.log_probs_file import read_log_probs
from jobs import evaluate, transcribe
from jobs.pieces import num_threads

NUM_UTTERANCES = 70
"""More than one piece of files."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, its files and a bundle."""
    folder = tmp_path_factory.mktemp("pieces")
    prepare_tones(folder, train=1, evaluation=NUM_UTTERANCES)
    save_random_bundle(folder / "bundle")
    return folder


Job = Callable[..., dict[str, Any]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Job:
    """Run a job's `main`; its figures, or its last line of stderr under `error`."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def start(main: Callable[[], None], *arguments: object) -> dict[str, Any]:
        monkeypatch.setattr(sys, "argv", ["job", *map(str, arguments)])
        try:
            main()
        except SystemExit:
            return {"error": capsys.readouterr().err.splitlines()[-1]}
        found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return found

    return start


def test_an_evaluation_goes_on_from_the_pieces_that_are_finished(run: Job, world: Path, tmp_path: Path) -> None:
    what = [world / "bundle", world / "evaluation", "--threads", 1]
    whole = run(evaluate.main, *what, "--predictions", tmp_path / "whole.jsonl")
    options = ["--work", tmp_path / "work", "--piece-seconds", 5]
    first = run(evaluate.main, *what, *options, "--predictions", tmp_path / "first.jsonl")
    pieces = sorted((tmp_path / "work").glob("piece-*.json"))
    assert len(pieces) > 5
    assert (tmp_path / "first.jsonl").read_text() == (tmp_path / "whole.jsonl").read_text()
    same = ("wer", "cer", "num_utterances", "num_words", "num_word_errors")
    assert {key: first[key] for key in same} == {key: whole[key] for key in same}
    assert first["loss"] == pytest.approx(whole["loss"], rel=1e-5)

    # Pieces that lie there are believed: one that was changed shows, one that is missing is made again.
    pieces[1].unlink()
    kept = json.loads(pieces[2].read_text())
    kept["transcripts"][0] = "kept"
    pieces[2].write_text(json.dumps(kept))
    again = run(evaluate.main, *what, *options, "--predictions", tmp_path / "again.jsonl")
    assert again["wer"] == whole["wer"] and pieces[1].exists()
    before, after = [(tmp_path / name).read_text().splitlines() for name in ("first.jsonl", "again.jsonl")]
    assert sum(one != other for one, other in zip(before, after, strict=True)) == 1

    refused = run(evaluate.main, *what, *options, "--decoding", "method=beam", "--decoding", "lexicon=false")
    assert "holds results of other work: decoding" in refused["error"]
    refused = run(evaluate.main, *what, *options, "--loader", "dali")
    assert "holds results of other work: loader was 'torch' and is 'dali' now" in refused["error"]
    save_random_bundle(tmp_path / "other")
    refused = run(evaluate.main, tmp_path / "other", world / "evaluation", *options)
    assert "holds results of other work: bundle" in refused["error"]
    report = run(evaluate.main, *what, "--work", tmp_path / "r", "--report", tmp_path / "report", "--threads", 1)
    assert (tmp_path / "report" / "report.html").exists() and report["wer"] == whole["wer"]


def test_log_probabilities_are_written_and_give_the_transcripts(run: Job, world: Path, tmp_path: Path) -> None:
    bundle = load_bundle(str(world / "bundle"))
    options = ["--threads", 1, "--predictions", tmp_path / "out.jsonl", "--log-probs", tmp_path / "log-probs"]
    found = run(evaluate.main, world / "bundle", world / "evaluation", *options, "--piece-seconds", 20)
    files = sorted((tmp_path / "log-probs").iterdir())
    assert len(files) > 1 and found["latency_s"]["batches"] == len(files)
    rows = {name: row for file in files for name, row in read_log_probs(str(file)).items()}
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {row["id"] for row in written} == set(rows)
    for row in written:
        frames = torch.from_numpy(rows[row["id"]].copy())[None]
        lengths = torch.tensor([frames.shape[1]])
        assert GreedyDecoder(bundle.alphabet).texts(frames, lengths) == [row["hypothesis"]]


def test_only_the_first_batches_are_evaluated_if_told_so(run: Job, world: Path, tmp_path: Path) -> None:
    what = [world / "bundle", world / "evaluation", "--threads", 1, "--batch-seconds", 10]
    whole = run(evaluate.main, *what, "--predictions", tmp_path / "whole.jsonl")
    assert set(whole["latency_s"]) == {"batches", "data", "model", "decoding", "total"}
    assert 0 < whole["latency_s"]["model"]["p50"] <= whole["latency_s"]["model"]["p99"]
    two = run(evaluate.main, *what, "--steps", 2, "--warmup-steps", 1, "--predictions", tmp_path / "two.jsonl")
    assert whole["latency_s"]["batches"] > 2 and two["latency_s"]["batches"] == 1
    lines = [(tmp_path / name).read_text().splitlines() for name in ("whole.jsonl", "two.jsonl")]
    assert 0 < len(lines[1]) < len(lines[0]) == NUM_UTTERANCES and set(lines[1]) < set(lines[0])
    assert run(evaluate.main, *what, "--steps", 0)["error"] == "error: --steps must be at least 1, got 0"
    assert run(evaluate.main, *what, "--warmup-steps", -1)["error"] == "error: --warmup-steps must be 0 or more, got -1"


def test_files_of_a_list_are_transcribed_in_pieces_and_in_their_order(run: Job, world: Path, tmp_path: Path) -> None:
    files = [str(world / "evaluation-corpus" / f"{number}.wav") for number in range(NUM_UTTERANCES)][::-1]
    (tmp_path / "files.txt").write_text("# speech\n\n" + "\n".join(files) + "\n")
    here = run(transcribe.main, world / "bundle", *files)
    options = ["--list", tmp_path / "files.txt", "--output", tmp_path / "out.jsonl", "--work", tmp_path / "work"]
    listed = run(transcribe.main, world / "bundle", *options)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["file"] for row in rows] == files
    assert [row["text"] for row in rows] == [row["text"] for row in here["transcripts"]]
    assert (listed["files"], listed["audio_s"]) == (NUM_UTTERANCES, pytest.approx(here["audio_s"]))
    assert len(list((tmp_path / "work").glob("piece-*.json"))) == 2

    missing = tmp_path / "no.wav"
    (tmp_path / "files.txt").write_text("\n".join([*files[:2], str(missing)]))
    refused = run(transcribe.main, world / "bundle", *options)
    assert "holds results of other work: files" in refused["error"]
    failed = run(transcribe.main, world / "bundle", *options[:4])
    assert "1 of 3 files have no transcript, first " in failed["error"] and str(missing) in failed["error"]
    assert "text" in json.loads((tmp_path / "out.jsonl").read_text().splitlines()[1])
    nothing = run(transcribe.main, world / "bundle")
    assert "there is nothing to transcribe" in nothing["error"] and "--list" in nothing["error"]


def test_a_hot_word_that_cannot_be_written_is_refused_in_pieces_too(run: Job, world: Path, tmp_path: Path) -> None:
    file = world / "evaluation-corpus" / "0.wav"
    search = ["--decoding", "method=beam", "--decoding", "lexicon=false", "--hotword", "xyz=2"]
    for where in ([], ["--work", tmp_path / "work"]):
        refused = run(transcribe.main, world / "bundle", file, *search, *where)
        assert "xyz" in refused["error"]


@pytest.mark.parametrize(
    ("given", "on", "expected"), [(None, "here", 2), (None, "cluster", 1), (4, "here", 4), (4, "cluster", 4)]
)
def test_a_piece_on_a_cluster_holds_one_cpu_unless_told_otherwise(given: int | None, on: str, expected: int) -> None:
    assert num_threads(argparse.Namespace(threads=given, on=on), here=2) == expected


def test_no_threads_at_all_are_refused(run: Job, world: Path) -> None:
    refused = run(evaluate.main, world / "bundle", world / "evaluation", "--threads", 0)
    assert refused["error"] == "error: --threads must be at least 1, got 0"
