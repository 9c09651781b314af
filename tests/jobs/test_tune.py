"""What cannot work is refused before anything starts."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
from tones import CONFIG_FILE, write_corpus

from jasper_ray.errors import CapacityError
from jobs.tune import sweep

REPOSITORY = Path(__file__).parents[2]
SPACE = "space: {optimizer.lr: {choice: [0.02, 0.03]}}\nsearch: grid\nscheduler: none\n"


def arguments(folder: Path, text: str, *overrides: str) -> list[str]:
    """A sweep whose datasets have yet to be prepared."""
    sweep_file = folder / "s.yaml"
    sweep_file.write_text(text)
    corpus = folder / "corpus"
    if not corpus.exists():
        write_corpus(corpus, 2, seed=1)
    dataset = f"[{{path: {folder}/data, corpora: [{{source: {corpus}, format: jsonl}}]}}]"
    data = [f"data.train={dataset}", f"data.evaluation={dataset}", f"output={folder}/out"]
    return [str(CONFIG_FILE), str(sweep_file), *data, *overrides]


def refused(folder: Path, text: str, *overrides: str) -> str:
    """What the command says, last line of stderr; it may have left nothing."""
    command = [sys.executable, "-m", "jobs.tune", *arguments(folder, text, *overrides)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, env=environment, timeout=240)
    assert result.returncode == 1 and result.stdout == "", result.stderr
    assert not (folder / "out").exists() and not (folder / "data").exists()
    return result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("text", "override", "reason"),
    [
        (
            SPACE.replace("optimizer.lr", "optimizer.rl"),
            "seed=1",
            "s.yaml: space: unknown key 'optimizer.rl'. Did you ",
        ),
        (SPACE.replace("0.03", "-1"), "seed=1", "optimizer.lr: got -1"),
        (SPACE, "sweep.budget.trials=0", "'sweep.budget.trials=0': budget.trials: must be above 0, got 0: no trial"),
        (SPACE, "sweep.budget.hours=0", "'sweep.budget.hours=0': budget.hours: must be above 0, got 0: no trial"),
    ],
)
def test_a_typo_or_a_budget_of_nothing_is_refused_within_seconds(
    tmp_path: Path, text: str, override: str, reason: str
) -> None:
    started_s = time.process_time()
    assert reason in refused(tmp_path, text, override)
    assert time.process_time() - started_s < 60


def test_workers_that_no_node_can_hold_are_refused_before_data_is_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}] * 3)
    for override, reason in (
        (
            "cluster.cpus_per_worker=64",
            r"1 workers of 64 CPU each, the cluster holds 0 of them \(nodes: 2 CPU, 0 GPU; ",
        ),
        ("cluster.use_gpu=true", r"1 workers of 1 CPU and 1 GPU each, the cluster holds 0"),
        ("cluster.num_workers=7", r"7 workers of 1 CPU each, the cluster holds 6"),
    ):
        with pytest.raises(CapacityError, match=reason):
            sweep(arguments(tmp_path, SPACE, override))
    assert not (tmp_path / "out").exists() and not (tmp_path / "data").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_the_command_refuses_workers_that_this_machine_cannot_hold(tmp_path: Path) -> None:
    assert "1 workers of 4096 CPU each, the cluster holds 0" in refused(tmp_path, SPACE, "cluster.cpus_per_worker=4096")
