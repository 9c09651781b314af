import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_checkpoint import save

from jasper_ray.errors import BundleError, CheckpointError
from jasper_ray.model.bundle import CONFIG_FILE, load_bundle
from jasper_ray.training.averaging import average_bundles, newest_checkpoints
from jobs.average import main


def average(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object
) -> dict[str, object]:
    monkeypatch.setattr("sys.argv", ["jobs.average", *map(str, arguments)])
    main()
    figures: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return figures


@pytest.mark.parametrize("plain", [False, True])
def test_the_bundle_holds_the_mean_of_the_newest_checkpoints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, plain: bool
) -> None:
    uris = [save(tmp_path / "run", step) for step in (1, 2, 3)]
    options = ["--plain"] if plain else []
    figures = average(capsys, monkeypatch, tmp_path / "run", "--last", 2, "--to", tmp_path / "mean", *options)
    assert figures["averaged"] == 2 and figures["sources"] == uris[1:]
    mean = load_bundle(str(tmp_path / "mean"))
    parts = [load_bundle(f"{uri}/bundle", plain_weights=plain).model.state_dict() for uri in uris[1:]]
    for name, tensor in mean.model.state_dict().items():
        expected = (parts[0][name].double() + parts[1][name].double()) / 2
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-7, msg=name)
    assert mean.config.training["averaged_from"] == uris[1:] and mean.config.training.get("wer") is None


def test_statistics_of_batch_norm_are_averaged_and_counters_take_the_largest(tmp_path: Path) -> None:
    folders = []
    for number in (1, 2):
        folder = Path(save(tmp_path / str(number), number)) / "bundle"
        bundle = load_bundle(str(folder))
        weights = bundle.model.state_dict()
        weights["encoder.layers.0.conv.1.running_var"].fill_(number)
        weights["encoder.layers.0.conv.1.num_batches_tracked"].fill_(10 * number)
        save_file(weights, folder / "model.safetensors")
        folders.append(str(folder))
    _, mean = average_bundles(folders)
    assert mean["encoder.layers.0.conv.1.running_var"].unique().tolist() == [1.5]
    assert int(mean["encoder.layers.0.conv.1.num_batches_tracked"]) == 20


def test_the_mean_of_one_is_itself(tmp_path: Path) -> None:
    uri = save(tmp_path, 1)
    _, mean = average_bundles([uri])
    assert all(
        torch.equal(mean[name], tensor) for name, tensor in load_bundle(f"{uri}/bundle").model.state_dict().items()
    )


def test_damaged_and_missing_checkpoints_and_other_models_are_refused_by_name(tmp_path: Path) -> None:
    first, second = Path(save(tmp_path / "run", 1)), Path(save(tmp_path / "run", 2))
    with pytest.raises(CheckpointError, match=r"holds 2 checkpoints, 5 were asked for.*keep_last"):
        newest_checkpoints(str(tmp_path / "run"), 5)
    config = second / "bundle" / CONFIG_FILE
    config.write_text(config.read_text().replace('" ab"', '" ac"'))
    with pytest.raises(BundleError, match=r"has another text than .*' ac'.*instead of .*' ab'"):
        average_bundles([str(first / "bundle"), str(second / "bundle")])
    with pytest.raises(CheckpointError, match=r"step_00000002.*config.json differs from its checksum"):
        average_bundles([str(first), str(second)])
