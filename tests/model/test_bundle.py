import json
from pathlib import Path

import pytest
import torch

from jasper_ray.config.model import BlockConfig, ModelConfig
from jasper_ray.config.speech import FeatureConfig, TextConfig
from jasper_ray.errors import BundleError
from jasper_ray.model.bundle import BundleConfig, build_model, check_bundle, load_bundle, load_weights, save_bundle

CONFIG = BundleConfig(
    features=FeatureConfig(num_mels=8),
    text=TextConfig(alphabet=" ab"),
    model=ModelConfig(preset=None, blocks=(BlockConfig(filters=8, kernel=3),)),
    training={"run": "x", "step": 3, "epoch": 1, "wer": 0.25},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = build_model(CONFIG.model, CONFIG.features, CONFIG.text)
    save_bundle(tmp_path, config=CONFIG, weights=model.state_dict(), plain_weights=None)
    return tmp_path


def test_a_bundle_comes_back_in_evaluation_mode(folder: Path) -> None:
    bundle = load_bundle(str(folder))
    assert bundle.config == CONFIG and not bundle.model.training
    assert (bundle.alphabet.num_labels, bundle.alphabet.blank) == (4, 3)


def test_the_readme_names_parameters_and_error_rate(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    parameters = 8 * 8 * 3 + 2 * 8 + 4 * 8 + 4
    assert f"{parameters:,} parameters" in text and "25.00 %" in text


def test_a_tensor_that_is_missing_or_of_another_shape_is_named(folder: Path) -> None:
    model = load_bundle(str(folder)).model
    weights = model.state_dict()
    del weights["decoder.layers.0.bias"]
    weights["decoder.layers.0.weight"] = torch.zeros(4, 9, 1)
    weights["surplus"] = torch.zeros(1)
    with pytest.raises(
        BundleError, match=r"3 tensors: decoder\.layers\.0\.bias is missing; .*\[4, 9, 1\], the model has"
    ):
        load_weights(model, weights, source="there")


def test_another_format_and_damaged_files_are_refused(folder: Path) -> None:
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(raw | {"format_version": 99}))
    with pytest.raises(BundleError, match="has bundle format 99, this version reads 1"):
        load_bundle(str(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(BundleError, match="is not JSON"):
        load_bundle(str(folder))
    (folder / "config.json").write_text(json.dumps(raw))
    (folder / "model.safetensors").write_bytes(b"x")
    for read in (load_bundle, check_bundle):
        with pytest.raises(BundleError, match=r"model\.safetensors cannot be read as weights"):
            read(str(folder))


def test_a_check_reads_no_weights_but_finds_those_that_do_not_fit(folder: Path) -> None:
    assert check_bundle(str(folder)) == CONFIG
    wider = CONFIG.model_copy(update={"text": TextConfig(alphabet=" abc")})
    (folder / "config.json").write_text(wider.model_dump_json())
    with pytest.raises(BundleError, match=r"2 tensors: decoder\.layers\.0\.bias is \[4\], the model has \[5\]"):
        check_bundle(str(folder))
