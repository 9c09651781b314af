from pathlib import Path

import numpy as np
import pytest
import soundfile
from tones import prepare_tones, run_workers, tone_config

from jasper_ray.cluster.trainer import with_absolute_paths
from jasper_ray.config.data import CorpusConfig, PreparationConfig
from jasper_ray.config.schema import RunConfig
from jasper_ray.data.preparation import prepare_dataset
from jasper_ray.errors import ResumeError
from jasper_ray.model.bundle import read_bundle_config
from jasper_ray.training.report import read_log


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The speech of tones.py, and datasets `noise` and `rooms`."""
    root = tmp_path_factory.mktemp("tones")
    prepare_tones(root)
    for seed, name in enumerate(("noise", "rooms")):
        (root / f"{name}-corpus").mkdir()
        for number in range(3):
            random = np.random.default_rng([seed, number])
            num_samples = 4000 + 1000 * seed  # a manifest does not know more of its audio than lengths
            wave = random.standard_normal(num_samples) * 0.2
            wave *= np.exp(-np.arange(num_samples) / 300) if name == "rooms" else 1
            soundfile.write(root / f"{name}-corpus" / f"{number}.wav", wave, 16000)
        corpus = CorpusConfig(source=str(root / f"{name}-corpus"), format="folder")
        prepare_dataset([corpus], str(root / name), alphabet="ab", config=PreparationConfig(audio_only=True))
    return root


def losses(config: RunConfig) -> list[float]:
    return [event["loss"] for event in read_log(config.output) if event["event"] == "progress"]


def test_a_run_with_noise_rooms_and_gain_is_the_same_with_any_number_of_workers(tones: Path, tmp_path: Path) -> None:
    overrides = [
        f"augment.noise=[{tones}/noise]",
        f"augment.reverb=[{tones}/rooms]",
        "augment.gain_min_db=-6",
        "training.epochs=3",
    ]
    alone, shared, clean = (tmp_path / name for name in ("alone", "shared", "clean"))
    run_workers(tone_config(tones, alone, *overrides), 1)
    run_workers(tone_config(tones, shared, *overrides), 2)
    run_workers(tone_config(tones, clean, "training.epochs=3"), 1)
    expected = losses(tone_config(tones, alone))
    assert losses(tone_config(tones, shared)) == pytest.approx(expected, rel=1e-3)
    assert losses(tone_config(tones, clean)) != pytest.approx(expected, rel=1e-2)


def test_a_run_does_not_go_on_with_other_recordings(tones: Path, tmp_path: Path) -> None:
    noise = f"augment.noise=[{tones}/noise]"
    run_workers(tone_config(tones, tmp_path, noise, "training.epochs=3"), 1)
    for other in ([f"augment.noise=[{tones}/rooms]"], []):
        with pytest.raises(ResumeError, match=r"was made with \{'augment.noise': '.*this run has \{'augment.noise': "):
            run_workers(tone_config(tones, tmp_path, *other, "training.epochs=4"), 1)
    run_workers(tone_config(tones, tmp_path, noise, "training.epochs=4"), 1)


@pytest.mark.parametrize("knob", ["features.flavour=nvidia_dali", "augment.speed_method=folded"])
def test_a_run_under_another_kind_of_features_learns_and_its_bundle_says_so(
    tones: Path, tmp_path: Path, knob: str
) -> None:
    config = tone_config(tones, tmp_path, knob)
    run_workers(config, 1)
    assert losses(config)[-1] < 0.6 * losses(config)[0]
    assert read_bundle_config(str(tmp_path / "bundle")).features == config.features


def test_workers_find_recordings_from_another_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    config = RunConfig.model_validate({"augment": {"noise": ["noise", "s3://bucket/noise"], "reverb": ["rooms"]}})
    augment = with_absolute_paths(config).augment
    assert augment.noise == (str(tmp_path / "noise"), "s3://bucket/noise")
    assert augment.reverb == (str(tmp_path / "rooms"),)
