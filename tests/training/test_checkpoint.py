import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jasper_ray.config.model import BlockConfig, ModelConfig
from jasper_ray.config.schema import CheckpointConfig
from jasper_ray.config.speech import FeatureConfig, TextConfig
from jasper_ray.errors import CheckpointError, ResumeError
from jasper_ray.model.bundle import BundleConfig, build_model, load_bundle
from jasper_ray.training.checkpoint import (
    Progress,
    check_same_run,
    find_checkpoints,
    load_checkpoint,
    load_newest,
    prune_checkpoints,
    save_checkpoint,
)

CPU = torch.device("cpu")
BUNDLE = BundleConfig(
    features=FeatureConfig(num_mels=8),
    text=TextConfig(alphabet=" ab"),
    model=ModelConfig(preset=None, blocks=(BlockConfig(filters=8, kernel=3, stride=2),)),
)


def save(output: Path, step: int, *, epoch: int = 0, step_in_epoch: int = 1, averaged: bool = True) -> str:
    torch.manual_seed(step)
    weights = build_model(BUNDLE.model, BUNDLE.features, BUNDLE.text).state_dict()
    average = {name: tensor + 1 if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    return save_checkpoint(
        str(output),
        progress=Progress(seed=1, manifest_fingerprint="f" * 64, epoch=epoch, step=step_in_epoch, global_step=step),
        bundle=BUNDLE,
        weights=weights,
        averaged_weights=average if averaged else None,
        trainer={"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}, "scaler": {}},
    )


@pytest.mark.parametrize("averaged", [True, False])
def test_a_checkpoint_gives_back_what_was_saved(tmp_path: Path, averaged: bool) -> None:
    loaded = load_checkpoint(save(tmp_path, 7, averaged=averaged), device=CPU)
    torch.manual_seed(7)
    weights = build_model(BUNDLE.model, BUNDLE.features, BUNDLE.text).state_dict()
    assert all(torch.equal(loaded.weights[name], tensor) for name, tensor in weights.items())
    assert (loaded.averaged_weights is not None) == averaged
    assert loaded.progress.global_step == 7
    assert loaded.trainer["optimizer"]["state"][0]["exp_avg"].tolist() == [1, 1, 1]


def test_the_bundle_of_a_checkpoint_serves_the_averaged_weights(tmp_path: Path) -> None:
    uri = save(tmp_path, 7)
    deployed, plain = load_bundle(f"{uri}/bundle"), load_bundle(f"{uri}/bundle", plain_weights=True)
    difference = deployed.model.decoder.layers[0].bias - plain.model.decoder.layers[0].bias
    torch.testing.assert_close(difference, torch.ones_like(difference))


def test_a_checkpoint_without_checksums_is_invisible(tmp_path: Path) -> None:
    save(tmp_path, 1)
    newest = Path(save(tmp_path, 2))
    (newest / "CHECKSUMS").unlink()
    assert [Path(uri).name for uri in find_checkpoints(str(tmp_path))] == ["step_00000001"]
    assert load_newest(str(tmp_path), device=CPU).progress.global_step == 1


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
@pytest.mark.parametrize("name", ["trainer.pt", "bundle/model.safetensors", "progress.json"])
def test_a_damaged_newest_checkpoint_is_skipped_loudly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str, name: str
) -> None:
    save(tmp_path, 1)
    path = Path(save(tmp_path, 2)) / name
    data = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        path.write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    else:
        path.unlink()
    with caplog.at_level(logging.WARNING):
        newest = load_newest(str(tmp_path), device=CPU)
    assert newest is not None and newest.progress.global_step == 1
    assert name in caplog.text and "step_00000002" in caplog.text


def test_only_damaged_checkpoints_are_an_error_not_a_restart(tmp_path: Path) -> None:
    (Path(save(tmp_path, 1)) / "trainer.pt").unlink()
    with pytest.raises(CheckpointError, match=r"all 1 checkpoints.*trainer\.pt is missing"):
        load_newest(str(tmp_path), device=CPU)


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_newest(str(tmp_path), device=CPU) is None


def test_a_leftover_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "step_00000003"
    folder.mkdir(parents=True)
    (folder / "junk").write_text("from a job that died")
    assert not (Path(save(tmp_path, 3)) / "junk").exists()


def test_pruning_keeps_the_last_ones_and_milestone_epochs(tmp_path: Path) -> None:
    for step, epoch, in_epoch in [(10, 1, 0), (20, 2, 0), (25, 2, 5), (30, 3, 0), (40, 4, 0)]:
        save(tmp_path, step, epoch=epoch, step_in_epoch=in_epoch)
    prune_checkpoints(str(tmp_path), CheckpointConfig(keep_last=2, keep_epochs=(2,)))
    assert [int(Path(uri).name[5:]) for uri in find_checkpoints(str(tmp_path))] == [20, 30, 40]


def test_another_manifest_is_refused_naming_both_fingerprints(tmp_path: Path) -> None:
    loaded = load_checkpoint(save(tmp_path, 1), device=CPU)
    with pytest.raises(ResumeError, match=r"ffffffffffff, this run reads aaaaaaaaaaaa"):
        check_same_run(loaded, expected=replace(loaded.progress, manifest_fingerprint="a" * 64))


def test_another_seed_or_batching_is_refused(tmp_path: Path) -> None:
    loaded = load_checkpoint(save(tmp_path, 1), device=CPU)
    with pytest.raises(ResumeError, match=r"'seed': 1.*'seed': 2"):
        check_same_run(loaded, expected=replace(loaded.progress, seed=2))
    with pytest.raises(ResumeError, match=r"batching"):
        check_same_run(loaded, expected=replace(loaded.progress, plan={"batching": {"policy": "seconds"}}))
