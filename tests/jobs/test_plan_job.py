import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
CONFIG = REPOSITORY / "jobs" / "configs" / "librispeech_batching.yaml"


def run_plan(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs.plan", *(str(argument) for argument in arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)


def test_policies_are_compared_on_a_corpus_that_is_not_there() -> None:
    overrides = ["batching.rows_per_microbatch=4", "data.window_shards=4"]
    result = run_plan("simulate", CONFIG, *overrides, "--utterances", 6000, "--workers", 2, 4, "--memory")
    assert result.returncode == 0, result.stderr
    report: dict[str, Any] = json.loads(result.stdout)
    assert [(row["policy"], row["workers"]) for row in report["plans"]] == [
        (policy, workers) for workers in (2, 4) for policy in ("fixed", "seconds", "packed", "nvidia")
    ]
    fixed, seconds, packed, nvidia = report["plans"][:4]
    assert fixed["efficiency"] == pytest.approx(nvidia["efficiency"], abs=0.02)
    assert min(seconds["efficiency"], packed["efficiency"]) > 0.9 > 0.8 > fixed["efficiency"]
    assert packed["straggler_share"] == 0
    assert all(row["shards_in_use"] <= 4 and 0 < row["plan_peak_mib"] < 50 for row in report["plans"][:3])
    assert "useful" in result.stderr
    assert report["utterances"] < 6000  # the longest are left out, as in training
