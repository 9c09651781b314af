from pathlib import Path

import pytest
import torch
from tones import run_workers, tone_config

from jasper_ray.config.data import ALIGN_FRAMES
from jasper_ray.config.schema import RunConfig
from jasper_ray.data.manifest import read_manifest
from jasper_ray.data.plan import RunPlan
from jasper_ray.errors import CapacityError
from jasper_ray.training.probe import probe_memory, worst_batch, worst_microbatch
from jasper_ray.training.report import read_log
from jasper_ray.training.state import RunState
from jasper_ray.training.step import TrainStep
from jasper_ray.training.world import World

SECONDS = ("batching.policy=seconds", "batching.seconds_per_microbatch=4")
PACKED = (
    "batching.policy=packed",
    "batching.row_seconds=4",
    "batching.rows_per_microbatch=2",
    "batching.gap_seconds=0.3",
    "model.batch_norm_padding=exclude",
)


def events(config: RunConfig, kind: str) -> list[dict[str, object]]:
    return [event for event in read_log(config.output) if event["event"] == kind]


def test_no_microbatch_of_any_epoch_is_larger_than_the_one_that_is_tried(tones: Path, tmp_path: Path) -> None:
    train = read_manifest(f"{tones}/train")
    config = tone_config(tones, tmp_path)
    worst = worst_microbatch(config, train)
    plan = RunPlan(train.durations_s, seed=0, batching=config.batching, augment=config.augment)
    slowest_s = train.durations_s / config.augment.speed_min
    sizes = [
        len(rows) * slowest_s[rows].max() for epoch in range(20) for step in plan.epoch(epoch).steps for rows in step
    ]
    tried_s = worst.num_rows * worst.row_frames * config.features.hop_s
    assert max(sizes) <= tried_s <= 1.3 * max(sizes)
    by_seconds = worst_microbatch(tone_config(tones, tmp_path, *SECONDS), train)
    assert 4 <= by_seconds.num_rows * by_seconds.row_frames * config.features.hop_s <= 5
    packed = worst_microbatch(tone_config(tones, tmp_path, *PACKED), train)
    assert (packed.num_rows, packed.row_frames) == (2, 400) and packed.num_utterances > 2


@pytest.mark.parametrize("overrides", [(), SECONDS, PACKED])
def test_the_probe_changes_no_number(tones: Path, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    config = tone_config(tones, tmp_path, *overrides)
    state = RunState(config, world=World(), manifest_fingerprint="x")
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    random = torch.random.get_rng_state()
    worst = worst_microbatch(config, read_manifest(f"{tones}/train"))
    batch = worst_batch(worst, num_mels=16, num_classes=2, align_frames=ALIGN_FRAMES)
    tried = probe_memory(state.train_step, batch, worst, config)
    assert worst.words in str(tried)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.model.state_dict().items())
    assert all(parameter.grad is None for parameter in state.model.parameters())
    assert not state.optimizer.state


def test_a_run_with_the_probe_is_the_run_without_it_bit_for_bit(tones: Path, tmp_path: Path) -> None:
    losses = []
    for name, workers, probed in (("without", 2, "false"), ("with", 2, "true")):
        config = tone_config(tones, tmp_path / name, "training.stop_after_steps=5", f"training.memory_probe={probed}")
        run_workers(config, workers)
        losses.append([event["loss"] for event in events(config, "progress")])
        (start,) = events(config, "start")
        assert (start["memory_probe"] is not None) == (probed == "true")
    assert losses[0] == losses[1] and len(losses[0]) == 5


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ((), "halve batching.utterances_per_microbatch=4"),
        (SECONDS, "halve batching.seconds_per_microbatch=4"),
        (PACKED, "halve batching.rows_per_microbatch=2"),
    ],
)
def test_out_of_memory_names_the_key_to_halve_before_the_first_step(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...], key: str
) -> None:
    def too_much(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(TrainStep, "probe", too_much)
    config = tone_config(tones, tmp_path, "training.memory_probe=true", *overrides)
    with pytest.raises(CapacityError, match=rf"rows of \d+ frames, does not fit.*{key} and double.*activation_check"):
        run_workers(config, 1)
    assert not events(config, "progress")
