"""Whole runs with convolutions in the frequency domain: checkpoints, averaged weights, evaluation, several workers."""

from pathlib import Path

import pytest
from tones import run_workers, tone_config

from jasper_ray.config.schema import RunConfig
from jasper_ray.model.convolution import Convolution
from jasper_ray.training.report import read_log
from jasper_ray.training.state import RunState
from jasper_ray.training.world import World

FREQUENCY = "training.convolution=frequency"


def losses(config: RunConfig, event: str = "progress") -> list[float]:
    return [entry["loss"] for entry in read_log(config.output) if entry["event"] == event]


@pytest.fixture(scope="module")
def whole_run(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """One worker, never interrupted."""
    config = tone_config(tones, tmp_path_factory.mktemp("frequency"), FREQUENCY)
    run_workers(config, 1)
    return config


def test_a_run_in_the_frequency_domain_is_that_with_conv1d_but_for_its_dropout(tones: Path, tmp_path: Path) -> None:
    layers = "model.blocks=[{filters: 24, kernel: 11, stride: 2}, {filters: 24, kernel: 7, repeat: 2, residual: dense}]"
    runs = []
    for name, method in (("conv1d", "training.convolution=conv1d"), ("frequency", FREQUENCY)):
        config = tone_config(tones, tmp_path / name, layers, method, "training.epochs=2", "schedule.hold_epochs=0")
        run_workers(config, 1)
        runs.append(config)
    assert losses(runs[1]) == pytest.approx(losses(runs[0]), rel=1e-3)
    assert losses(runs[1], "evaluation") == pytest.approx(losses(runs[0], "evaluation"), rel=1e-3)


def test_it_learns_the_same_with_two_workers_and_after_a_resume_on_one(
    tones: Path, whole_run: RunConfig, tmp_path: Path
) -> None:
    assert losses(whole_run)[-1] < 0.6 * losses(whole_run)[0]
    run_workers(tone_config(tones, tmp_path, FREQUENCY, "training.stop_after_steps=10"), 2)
    resumed = tone_config(tones, tmp_path, FREQUENCY)
    run_workers(resumed, 1)
    assert losses(resumed) == pytest.approx(losses(whole_run), rel=1e-3)
    assert losses(resumed, "evaluation")[-1] == pytest.approx(losses(whole_run, "evaluation")[-1], rel=1e-3)


def test_recomputed_blocks_give_the_same_run(tones: Path, whole_run: RunConfig, tmp_path: Path) -> None:
    config = tone_config(tones, tmp_path, FREQUENCY, "training.activation_checkpointing=true")
    run_workers(config, 2)
    assert losses(config) == pytest.approx(losses(whole_run), rel=1e-3)
    assert losses(config, "evaluation")[-1] == pytest.approx(losses(whole_run, "evaluation")[-1], rel=1e-3)


def test_the_config_reaches_every_layer_of_a_run(tones: Path, tmp_path: Path) -> None:
    config = tone_config(tones, tmp_path, "training.convolution=auto", "training.activation_checkpointing=true")
    model = RunState(config, world=World(), manifest_fingerprint="").model
    assert {module.method for module in model.modules() if isinstance(module, Convolution)} == {"auto"}
    assert model.encoder.recomputes
