from pathlib import Path

import pytest
from tones import run_workers, tone_config

from jasper_ray.config.schema import RunConfig
from jasper_ray.training.checkpoint import find_checkpoints
from jasper_ray.training.report import read_log

PACKED = [
    "batching.policy=packed",
    "batching.row_seconds=1.6",
    "batching.rows_per_microbatch=2",
    "batching.gap_seconds=0.12",  # the model of tones.yaml needs 0.06
    "model.batch_norm_padding=exclude",
]


@pytest.fixture(scope="module")
def whole_run(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """One worker, never interrupted."""
    config = tone_config(tones, tmp_path_factory.mktemp("whole"), *PACKED)
    run_workers(config, 1)
    return config


def events(config: RunConfig, kind: str) -> dict[int, dict]:
    return {event["global_step"]: event for event in read_log(config.output) if event["event"] == kind}


def assert_same_run(config: RunConfig, expected: RunConfig) -> None:
    ours, theirs = events(config, "progress"), events(expected, "progress")
    assert ours.keys() == theirs.keys()
    for name in ("loss", "padding_share"):
        assert [e[name] for e in ours.values()] == pytest.approx([e[name] for e in theirs.values()], rel=1e-3), name
    microbatches = [{s: e["microbatches"] for s, e in events(run, "utterances").items()} for run in (config, expected)]
    assert microbatches[0] == microbatches[1]
    last = max(events(expected, "evaluation"))
    evaluations = [events(run, "evaluation")[last] for run in (config, expected)]
    assert evaluations[0]["loss"] == pytest.approx(evaluations[1]["loss"], rel=1e-3)
    assert evaluations[0]["wer"] == evaluations[1]["wer"]


def test_a_run_on_packed_rows_learns_and_is_evaluated_unpacked(whole_run: RunConfig) -> None:
    progress = events(whole_run, "progress")
    losses = [event["loss"] for event in progress.values()]
    assert losses[-1] < 0.6 * losses[0]
    shares = [event["padding_share"] for event in progress.values()]
    assert min(shares) > 0 and sum(shares) / len(shares) < 0.5
    last = max(events(whole_run, "evaluation").values(), key=lambda event: event["global_step"])
    assert last["num_utterances"] == 20 and last["loss"] < losses[0]


def test_the_number_of_workers_does_not_change_the_training(tones: Path, whole_run: RunConfig, tmp_path: Path) -> None:
    config = tone_config(tones, tmp_path, *PACKED)
    run_workers(config, 2)
    assert_same_run(config, whole_run)


def test_a_run_stopped_in_mid_epoch_goes_on_elsewhere_as_if_nothing_had_happened(
    tones: Path, whole_run: RunConfig, tmp_path: Path
) -> None:
    steps_in_epoch = events(whole_run, "progress")[1]["steps_in_epoch"]
    assert steps_in_epoch > 1
    stop = f"training.stop_after_steps={2 * steps_in_epoch + 1}"
    run_workers(tone_config(tones, tmp_path, *PACKED, stop), 1)
    assert find_checkpoints(str(tmp_path))
    config = tone_config(tones, tmp_path, *PACKED)
    run_workers(config, 4)  # which share 3 micro-batches: one has none
    assert_same_run(config, whole_run)
