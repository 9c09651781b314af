"""The loader benchmark, small: what it writes, and what it says about who is not there."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from jobs.benchmarks import features, loader, peers
from jobs.benchmarks.corpus import make_corpus
from jobs.benchmarks.report import write_report
from jobs.benchmarks.timing import Run, ratio, run_in_turn

REPOSITORY = Path(__file__).parents[2]
SMALL = loader.LoaderBenchmark(
    num_utterances=36, feature_utterances=34, rounds=1, waiting_rounds=1, positions=2, device_audio_s_per_s=1e5
)


@pytest.fixture(scope="module")
def figures() -> Mapping[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JASPER_SPEECH_DATA", "/nowhere")
        patch.setattr(peers, "installed_peers", lambda: [])
        patch.setattr(features, "has_dali", lambda: False)
        patch.setattr("jobs.benchmarks.waiting.has_dali", lambda: False)
        return {**loader.measure_loading(SMALL, lambda line: None), "command": "python -m jobs.benchmark loader"}


def test_every_part_is_measured_for_this_project(figures: Mapping[str, Any]) -> None:
    assert figures["corpus"]["utterances"] == 36 and figures["corpus"]["speech"] == "noise"
    for touch in ("edges", "every line"):
        rates = figures["reading"][touch]["utterances"]
        assert {"jasper_ray ShardReader", "jasper_ray UtteranceSource", "individual files"} <= rates.keys()
        assert all(rate["per_cpu_s"] > 0 and len(rate["rounds_per_cpu_s"]) == 1 for rate in rates.values())
    assert figures["features"]["audio_s"]["jasper_ray torch, soxr HQ"]["per_cpu_s"] > 0
    assert figures["position"]["jasper_ray plan"]["every_step_largest_ms"] > 0
    assert 0 <= figures["waiting"]["of_step"]["jasper_ray torch, soxr HQ"]["share"] <= 1


def test_absent_contenders_are_named_and_their_targets_left_open(figures: Mapping[str, Any]) -> None:
    for name in ("WebDataset", "mosaicml-streaming", "lhotse Shar", "NVIDIA's DALI graph"):
        assert figures["absent"][name] == "not installed: make bench-peers"
    against = [target for target in figures["targets"] if "/" in target["what"]]
    assert against and all(target["measured"] is None and target["met"] is None for target in against)


def test_the_page_and_the_json_hold_the_same_figures(figures: Mapping[str, Any], tmp_path: Path) -> None:
    page = write_report(figures, tmp_path)
    assert json.loads(page.with_suffix(".json").read_text()) == json.loads(json.dumps(figures))
    text = page.read_text()
    assert page.name == f"{figures['date']}-loader.md"
    assert "WebDataset (not installed: make bench-peers)" in text and "`python -m jobs.benchmark loader`" in text


def test_repeated_utterances_have_other_bytes_and_the_same_length(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JASPER_SPEECH_DATA", "/nowhere")
    corpus = make_corpus(tmp_path / "corpus", 52)
    first, again = corpus.utterances[0], corpus.utterances[50]
    assert first.num_samples == again.num_samples and first.audio != again.audio
    assert [path.read_bytes() for path in corpus.files] == [utterance.audio for utterance in corpus.utterances]
    assert corpus.manifest.ids == [utterance.id for utterance in corpus.utterances]


def test_contenders_run_in_turn_and_the_warm_up_does_not_count() -> None:
    order: list[tuple[str, int]] = []

    def work(name: str) -> Any:
        return lambda number: float(len(order)) if order.append((name, number)) is None else 0.0  # type: ignore[func-returns-value]

    runs = run_in_turn({"a": work("a"), "b": work("b")}, rounds=2)
    assert order == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]
    assert [len(of_one) for of_one in runs.values()] == [2, 2]


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    def runs(*cpu_s: float) -> list[Run]:
        return [Run(1.0, 1.0, seconds) for seconds in cpu_s]

    # The second round was twice as slow for everybody, the third disturbed one of them.
    assert ratio({"a": runs(1, 2, 9), "b": runs(3, 6, 9)}, "a", "b") == 3
    assert ratio({"a": runs(1)}, "a", "b") is None


def test_the_benchmark_needs_no_ray() -> None:
    code = "import sys, jobs.benchmark; sys.exit('ray' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, timeout=120)


def test_a_round_less_than_one_is_refused() -> None:
    command = [sys.executable, "-m", "jobs.benchmark", "loader", "--rounds", "0"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2 and "--rounds: must be at least 1, got 0" in result.stderr
