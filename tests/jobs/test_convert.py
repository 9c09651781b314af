import json
from pathlib import Path
from typing import Any

import pytest
import torch

from jasper_ray.model.bundle import load_bundle
from jobs.convert import main


def convert(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> dict[str, Any]:
    monkeypatch.setattr("sys.argv", ["jobs.convert", *map(str, arguments)])
    main()
    figures: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return figures


def test_nvidias_file_becomes_a_bundle_and_comes_back_the_same(
    nvidia_fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = nvidia_fixtures / "v2_checkpoint_by_train_py.pt"
    config = nvidia_fixtures / "v2_checkpoint_config.yaml"
    figures = convert(capsys, monkeypatch, source, tmp_path / "bundle", "--config", config)
    assert (figures["layout"], figures["averaged"], figures["epoch"]) == ("2021", True, 6)
    theirs = torch.load(source, weights_only=True)
    deployed = load_bundle(str(tmp_path / "bundle")).model.state_dict()
    assert all(torch.equal(deployed[name], tensor) for name, tensor in theirs["ema_state_dict"].items())
    convert(capsys, monkeypatch, tmp_path / "bundle", tmp_path / "back.pt", "--back")
    ours = torch.load(tmp_path / "back.pt", weights_only=True)
    for key in ("state_dict", "ema_state_dict"):
        assert ours[key].keys() == theirs[key].keys()
        assert all(torch.equal(ours[key][name], theirs[key][name]) for name in theirs[key])
    assert (ours["epoch"], ours["step"], ours["best_wer"]) == (theirs["epoch"], theirs["step"], theirs["best_wer"])


def test_a_model_that_is_no_preset_needs_nvidias_model_file(
    nvidia_fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="1"):
        convert(capsys, monkeypatch, nvidia_fixtures / "v1_2020_checkpoint.pt", tmp_path / "bundle")
    assert "name NVIDIA's model file with --config" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_a_partial_file_is_refused_with_the_tensors_that_are_missing(
    nvidia_fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = torch.load(nvidia_fixtures / "v2_checkpoint_by_train_py.pt", weights_only=True)
    del content["state_dict"]["encoder.layers.1.res.0.0.weight"]
    torch.save(content, tmp_path / "partial.pt")
    config = nvidia_fixtures / "v2_checkpoint_config.yaml"
    with pytest.raises(SystemExit, match="1"):
        convert(capsys, monkeypatch, tmp_path / "partial.pt", tmp_path / "bundle", "--config", config)
    error = capsys.readouterr().err
    assert "state_dict does not fit its model in 1 tensors: encoder.layers.1.res.0.0.weight is missing" in error
