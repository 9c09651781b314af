"""The jobs as a user runs them: as processes, judged by exit status, last line of stdout and stderr."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from processes import descendants, is_running
from submission import Submitted
from tones import CONFIG_FILE, prepare_tones, write_corpus

REPOSITORY = Path(__file__).parents[2]


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *(str(argument) for argument in arguments)]
    return subprocess.run(
        command, cwd=REPOSITORY, capture_output=True, text=True, env={**os.environ, **environment}, timeout=240
    )


def figures(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert result.returncode == 0, result.stderr
    value: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return value


def write_config(folder: Path, *lines: str) -> Path:
    path = folder / "run.yaml"
    text = CONFIG_FILE.read_text().replace("epochs: 6", "epochs: 3")
    path.write_text(text + "cluster: {num_workers: 2, cpus_per_worker: 0.5}\n" + "\n".join(lines))
    return path


def test_help_lists_every_knob_with_default_and_unit() -> None:
    text = run("jobs.train", "--help").stdout
    for part in ("optimizer.lr  (number, default 0.01)", "features.window_s", "data.train.N.corpora.N.where"):
        assert part in text


def test_a_wrong_config_ends_with_the_reason_as_last_line_and_starts_nothing(tmp_path: Path) -> None:
    started_s = time.monotonic()
    result = run("jobs.train", write_config(tmp_path, "lr: 1"))
    assert result.returncode == 1 and result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: ") and "unknown key 'lr' (value 1). Did you mean 'optimizer.lr'?" in last
    assert time.monotonic() - started_s < 60


def test_prepare_reports_counts_and_reasons(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", 6, seed=1)
    (corpus / "3.wav").write_bytes(b"broken")
    result = run("jobs.prepare", corpus, tmp_path / "dataset", "--alphabet", "ab")
    report = figures(result)
    assert (report["num_utterances"], report["num_shards"], report["reused"]) == (5, 1, False)
    assert [row["id"] for row in report["rejected"]] == ["corpus-3"]
    assert "5 utterances" in result.stderr
    strict = run("jobs.prepare", corpus, tmp_path / "strict", "--alphabet", "ab", "--strict")
    assert strict.returncode == 1 and "corpus-3" in strict.stderr.splitlines()[-1]


@pytest.mark.ray
def test_what_was_trained_is_evaluated_transcribed_and_drawn(submitted: Submitted, tmp_path: Path) -> None:
    folder, output = submitted.folder, submitted.folder / "run"
    trained = json.loads(next(line for line in submitted.result.stdout.splitlines() if line.startswith("{")))
    assert trained["finished"] and trained["num_utterances"] == 8
    assert trained.items() <= json.loads((output / "summary.json").read_text()).items()
    assert sorted(path.name for path in output.iterdir() if path.suffix) == ["config.yaml", "log.jsonl", "summary.json"]

    predictions = tmp_path / "predictions.jsonl"
    evaluated = figures(run("jobs.evaluate", trained["bundle"], folder / "evaluation", "--predictions", predictions))
    assert (evaluated["wer"], evaluated["cer"]) == (trained["wer"], trained["cer"])
    assert evaluated["loss"] == pytest.approx(trained["loss"], rel=1e-5)
    rows = [json.loads(line) for line in predictions.read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"evaluation-corpus-{n}" for n in range(8)]

    files = [folder / "evaluation-corpus" / f"{n}.wav" for n in range(8)]
    transcribed = figures(run("jobs.transcribe", trained["bundle"], *files))
    assert [row["text"] for row in transcribed["transcripts"]] == [row["hypothesis"] for row in rows]
    (tmp_path / "no.wav").write_bytes(b"no")
    failed = run("jobs.transcribe", trained["bundle"], tmp_path / "no.wav", files[0])
    assert failed.returncode == 1 and "no.wav" in failed.stderr.splitlines()[-1]
    assert f"{files[0]}: {rows[0]['hypothesis']}" in failed.stderr

    assert figures(run("jobs.curves", output, tmp_path / "c.png"))["picture"] == str(tmp_path / "c.png")


@pytest.mark.ray
def test_an_interrupted_training_leaves_no_process_behind(tmp_path: Path) -> None:
    prepare_tones(tmp_path, train=24, evaluation=8)
    data = f"data: {{train: [{{path: {tmp_path}/train}}], evaluation: [{{path: {tmp_path}/evaluation}}]}}"
    config = write_config(tmp_path, data, f"output: {tmp_path}/run", "seed: 1")
    command = [
        sys.executable,
        "-m",
        "jobs.train",
        str(config),
        "training.epochs=10000",
        "training.evaluate_every_epochs=5000",
    ]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    log = tmp_path / "run" / "log.jsonl"
    deadline_s = time.monotonic() + 120
    while not (log.exists() and "progress" in log.read_text()):
        assert time.monotonic() < deadline_s and process.poll() is None
        time.sleep(0.2)
    started = descendants(process.pid)
    assert len(started) > 3
    process.send_signal(signal.SIGTERM)  # what `ray job stop` sends; it takes Ctrl-C's way out
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    deadline_s = time.monotonic() + 20
    while left := {pid for pid in started if is_running(pid)}:
        assert time.monotonic() < deadline_s, left
        time.sleep(0.2)
