"""Language models as a user makes and uses them, on the model that the job `good` trained."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from submission import Submitted

REPOSITORY = Path(__file__).parents[2]

pytestmark = pytest.mark.ray


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *(str(argument) for argument in arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, env={**os.environ}, timeout=240)


def figures(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert result.returncode == 0, result.stderr
    value: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return value


def test_a_language_model_is_built_tuned_and_used_in_evaluation(submitted: Submitted, tmp_path: Path) -> None:
    bundle, evaluation = submitted.folder / "run" / "bundle", submitted.folder / "evaluation"
    text = tmp_path / "text.txt"
    text.write_text("ab\nabba\nBAB\nno such letters\n")
    built = figures(
        run(
            "jobs.language_model",
            "build",
            tmp_path / "lm",
            text,
            "--order",
            3,
            "--unit",
            "character",
            "--bundle",
            bundle,
        )
    )
    assert (built["num_words"], built["left_out_lines"], len(built["num_ngrams"])) == (3, 1, 3)
    weights = ("--lm-weights", 0, 0.5, "--word-bonuses", 0, "--decoding", "lexicon=false", "--processes", 2)
    tuned = figures(
        run(
            "jobs.language_model", "tune", bundle, tmp_path / "lm", evaluation, "--output", tmp_path / "tuned", *weights
        )
    )
    assert tuned["wer"] == min(wer for _, _, wer in tuned["points"])
    assert (tmp_path / "tuned" / "weights.png").read_bytes().startswith(b"\x89PNG")
    written = yaml.safe_load((tmp_path / "tuned" / "decoding.yaml").read_text())
    assert (written["method"], written["lm_weight"]) == ("beam", tuned["lm_weight"])
    # The same utterances in other batches, by another number of processes: the same words.
    evaluated = figures(
        run("jobs.evaluate", bundle, evaluation, "--decoding", tmp_path / "tuned" / "decoding.yaml", "--processes", 1)
    )
    assert evaluated["wer"] == tuned["wer"]
    greedy = figures(run("jobs.evaluate", bundle, evaluation))
    assert greedy["wer"] == tuned["greedy_wer"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("beam_widht=3", "unknown key 'beam_widht' (value 3). Did you mean 'beam_width'?"),
        ("language_model=/nowhere", "needs method=beam: greedy decoding cannot use one"),
    ],
)
def test_a_decoding_that_cannot_be_is_refused_before_anything_is_decoded(
    option: str, message: str, submitted: Submitted
) -> None:
    folder = submitted.folder
    result = run("jobs.evaluate", folder / "run" / "bundle", folder / "evaluation", "--decoding", option)
    assert result.returncode == 1
    assert message in result.stderr.splitlines()[-1]


def test_an_evaluation_writes_its_report_and_compares_two_sets_of_transcripts(
    submitted: Submitted, tmp_path: Path
) -> None:
    bundle, evaluation = submitted.folder / "run" / "bundle", submitted.folder / "evaluation"
    predictions, report = tmp_path / "predictions.jsonl", tmp_path / "report"
    figures(run("jobs.evaluate", bundle, evaluation, "--predictions", predictions))
    found = figures(run("jobs.evaluate", bundle, evaluation, "--report", report, "--compare", predictions, "--audio"))
    assert (found["difference"], found["p_value"]) == (0.0, 1.0)
    page = (report / "report.html").read_text()
    assert f"{found['wer']:.2%}" in page
    assert json.loads((report / "report.json").read_text())["num_utterances"] == found["num_utterances"]
    refused = run("jobs.evaluate", bundle, evaluation, "--audio")
    assert "need --report FOLDER" in refused.stderr.splitlines()[-1]
    predictions.write_text("not json\n")
    broken = run("jobs.evaluate", bundle, evaluation, "--report", report, "--compare", predictions)
    assert f"{predictions}, line 1: not a prediction" in broken.stderr.splitlines()[-1]
