"""What gradient accumulation changes and what it does not: the claims of the report's page."""

from itertools import chain
from pathlib import Path

import pytest
from tones import run_workers, tone_config

from jasper_ray.training.report import read_log

pytestmark = pytest.mark.slow
SAME = ["batching.microbatches_per_step=4", "training.epochs=3", "schedule.hold_epochs=1", "training.log_every_steps=1"]


def losses(output: Path) -> dict[object, float]:
    return {e["global_step"]: float(str(e["loss"])) for e in read_log(str(output)) if e["event"] == "progress"}


def utterances(output: Path) -> list[list[list[str]]]:
    return [e["microbatches"] for e in read_log(str(output)) if e["event"] == "utterances"]  # type: ignore[misc]


def test_accumulation_1_2_and_4_over_the_same_microbatches_give_the_same_loss_curve(
    tones: Path, tmp_path: Path
) -> None:
    for workers in (4, 2, 1):  # four micro-batches a step on so many workers: accumulation 1, 2 and 4
        run_workers(tone_config(tones, tmp_path / str(workers), *SAME), workers)
    one = losses(tmp_path / "4")
    assert len(one) > 5 and utterances(tmp_path / "4") == utterances(tmp_path / "1")
    for workers in (2, 1):
        other = losses(tmp_path / str(workers))
        assert other == pytest.approx(one, rel=1e-3)
        assert {step: other[step] for step in (1, 2, 3)} == pytest.approx(
            {step: one[step] for step in (1, 2, 3)}, rel=1e-5
        )


def test_smaller_microbatches_of_the_same_step_differ_because_batch_norm_sees_fewer_utterances(
    tones: Path, tmp_path: Path
) -> None:
    # 40 utterances are five whole steps of 8; a remainder would be shared out over other steps.
    overrides = [*SAME, "batching.microbatches_per_step=2", "training.stop_after_steps=5"]
    run_workers(tone_config(tones, tmp_path / "whole", *overrides), 1)
    halves = ["batching.microbatches_per_step=4", "batching.utterances_per_microbatch=2"]
    run_workers(tone_config(tones, tmp_path / "halves", *overrides, *halves), 1)
    steps = [
        [sorted(chain.from_iterable(step)) for step in utterances(tmp_path / name)] for name in ("whole", "halves")
    ]
    assert len(steps[0]) == 5 and steps[0] == steps[1]  # the same utterances make the step
    first = [losses(tmp_path / name)[1] for name in ("whole", "halves")]
    assert abs(first[1] / first[0] - 1) > 1e-3  # and yet the first loss is another one
