import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from jasper_ray.config.model import PRESETS, ModelConfig
from jasper_ray.errors import CheckpointError, ConfigError
from jasper_ray.model.jasper import Jasper
from jasper_ray.model.nvidia import preset_of, read_nvidia_checkpoint, write_nvidia_checkpoint
from jasper_ray.model.nvidia_config import convert_nvidia_config, read_nvidia_config


class Trap:
    """A pickle that would make a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@torch.inference_mode()
def test_a_checkpoint_of_2020_gives_nvidias_log_probs(nvidia_fixtures: Path) -> None:
    path = nvidia_fixtures / "v1_2020_checkpoint.pt"
    checkpoint = read_nvidia_checkpoint(path)
    assert (checkpoint.layout, checkpoint.epoch, checkpoint.step, checkpoint.best_wer) == ("2020", 3, None, None)
    config, features, text = convert_nvidia_config(torch.load(path, weights_only=True)["_config"])
    assert (features.flavour, features.num_mels, text.alphabet[-1]) == ("nvidia_torch", 64, "'")
    model = Jasper(config, num_mels=64, num_labels=29)
    model.load_state_dict(checkpoint.weights)
    arrays = np.load(nvidia_fixtures / "v1_2020_checkpoint.npz")
    log_probs, lengths = model.eval()(torch.from_numpy(arrays["feats"]), torch.from_numpy(arrays["feat_lens"]).long())
    assert lengths.tolist() == arrays["enc_lens"].tolist()
    np.testing.assert_allclose(log_probs.numpy(), arrays["log_probs"], atol=1e-5)


def test_a_checkpoint_of_2021_survives_the_way_there_and_back(nvidia_fixtures: Path, tmp_path: Path) -> None:
    path = nvidia_fixtures / "v2_checkpoint_by_train_py.pt"
    config, features, _ = read_nvidia_config(nvidia_fixtures / "v2_checkpoint_config.yaml")
    assert features.flavour == "nvidia_dali"
    model = Jasper(config, num_mels=64, num_labels=29)
    checkpoint = read_nvidia_checkpoint(path)
    model.load_state_dict(checkpoint.weights)
    write_nvidia_checkpoint(tmp_path / "back.pt", checkpoint, num_parameters=len(list(model.parameters())))
    theirs, ours = torch.load(path, weights_only=True), torch.load(tmp_path / "back.pt", weights_only=True)
    assert ours.keys() == theirs.keys()
    for key in ("epoch", "step", "best_wer", "scaler"):
        assert (ours[key], type(ours[key])) == (theirs[key], type(theirs[key]))
    for key in ("state_dict", "ema_state_dict"):
        assert list(ours[key]) == list(theirs[key])
        assert all(torch.equal(ours[key][name], theirs[key][name]) for name in theirs[key])
    (our_group,), (their_group,) = ours["optimizer"]["param_groups"], theirs["optimizer"]["param_groups"]
    assert {**our_group, "lr": None} == {**their_group, "lr": None}


@pytest.mark.parametrize("zip_format", [True, False])
def test_objects_in_a_checkpoint_are_refused_by_name_and_never_run(tmp_path: Path, zip_format: bool) -> None:
    path, made = tmp_path / "trap.pt", tmp_path / "made"
    content = {"state_dict": {"a": torch.zeros(1)}, "optimizer": Trap(str(made))}
    torch.save(content, path, _use_new_zipfile_serialization=zip_format)
    with pytest.raises(CheckpointError, match=r"trap\.pt holds the object (posix|os)\.mkdir .* it was not run"):
        read_nvidia_checkpoint(path)
    assert not made.exists()


def test_files_that_are_no_checkpoints_are_refused(tmp_path: Path, nvidia_fixtures: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        read_nvidia_checkpoint(tmp_path / "none.pt")
    whole = (nvidia_fixtures / "v2_checkpoint_by_train_py.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"cut\.pt cannot be read"):
        read_nvidia_checkpoint(tmp_path / "cut.pt")
    torch.save({"weights": torch.zeros(2)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"holds \['weights'\], expected a dictionary with state_dict"):
        read_nvidia_checkpoint(tmp_path / "other.pt")
    torch.save({"state_dict": {"encoder.layers.0.conv.0.weight": 3}}, tmp_path / "number.pt")
    with pytest.raises(CheckpointError, match=r"encoder\.layers\.0\.conv\.0\.weight is int, expected a tensor"):
        read_nvidia_checkpoint(tmp_path / "number.pt")


def test_names_of_distributed_training_and_of_no_average_are_understood(tmp_path: Path) -> None:
    names = ["module.jasper_encoder.encoder.0.conv.0.weight", "module.audio_preprocessor.featurizer.fb"]
    content = {"state_dict": dict.fromkeys(names, torch.ones(1)), "amp": None, "best_wer": 10**6}
    torch.save(content, tmp_path / "ddp.pt")
    checkpoint = read_nvidia_checkpoint(tmp_path / "ddp.pt")
    assert list(checkpoint.weights) == ["encoder.layers.0.conv.0.weight"]
    assert (checkpoint.averaged, checkpoint.best_wer, checkpoint.layout) == (None, None, "2020")


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_preset_is_known_by_its_tensors_whatever_its_alphabet(preset: str) -> None:
    with torch.device("meta"):
        model = Jasper(ModelConfig.model_validate({"preset": preset}), num_mels=64, num_labels=41)
    assert preset_of(model.state_dict()) == preset
    weights = model.state_dict()
    weights["encoder.layers.1.res.0.0.weight"] = torch.zeros(3, 3, 1, device="meta")
    assert preset_of(weights) is None


def test_what_a_model_file_asks_for_in_vain_is_named(nvidia_fixtures: Path, tmp_path: Path) -> None:
    tree = yaml.safe_load((nvidia_fixtures / "v2_checkpoint_config.yaml").read_text())
    tree["jasper"]["encoder"]["blocks"][1]["heads"] = 4
    (tmp_path / "heads.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(ConfigError, match=r"heads\.yaml: block 1 has heads"):
        read_nvidia_config(tmp_path / "heads.yaml")
    del tree["jasper"]["encoder"]["blocks"][1]["heads"]
    tree["jasper"]["encoder"]["blocks"][1]["kernel_size"] = [10]
    with pytest.raises(ConfigError, match="kernel must be odd, got 10"):
        convert_nvidia_config(tree)
    del tree["labels"]
    tree["jasper"]["encoder"]["blocks"][1]["kernel_size"] = [11]
    with pytest.raises(ConfigError, match="the key 'labels' is missing"):
        convert_nvidia_config(tree)
    with pytest.raises(ConfigError, match="neither jasper nor quartznet"):
        convert_nvidia_config({"name": "Tacotron"})
