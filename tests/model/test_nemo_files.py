"""`.nemo` files, made here as NeMo makes them: a tar of a YAML config and a state dict."""

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from jasper_ray.config.model import BlockConfig, ModelConfig
from jasper_ray.errors import CheckpointError, ConfigError
from jasper_ray.model.bundle import load_bundle
from jasper_ray.model.jasper import Jasper
from jasper_ray.model.nemo import LOG_FLOOR, is_nemo, read_nemo
from jobs.convert import main

LETTERS = [" ", "a", "b", "ç"]


def blocks(*, separable: bool) -> tuple[BlockConfig, ...]:
    return (
        BlockConfig(filters=16, kernel=11, stride=2, separable=separable),
        BlockConfig(filters=24, kernel=13, repeat=2, residual="plain" if separable else "dense", separable=separable),
        BlockConfig(filters=24, kernel=5, repeat=2, residual="plain" if separable else "dense", separable=separable),
        BlockConfig(filters=32, kernel=17, dilation=2, separable=separable),
        BlockConfig(filters=40, kernel=1),
    )


def nemo_config(model: tuple[BlockConfig, ...]) -> dict[str, Any]:
    jasper = [
        {
            "filters": block.filters,
            "repeat": block.repeat,
            "kernel": [block.kernel],
            "stride": [block.stride],
            "dilation": [block.dilation],
            "dropout": block.dropout,
            "residual": block.residual != "none",
            "residual_dense": block.residual == "dense",
            "separable": block.separable,
            "se": False,
            "kernel_size_factor": 1.0,
        }
        for block in model
    ]
    return {
        "sample_rate": 16000,
        "preprocessor": {
            "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
            "normalize": "per_feature",
            "window_size": 0.02,
            "sample_rate": 16000,
            "window_stride": 0.01,
            "window": "hann",
            "features": 16,
            "n_fft": 512,
            "frame_splicing": 1,
            "dither": 1e-5,
        },
        "encoder": {
            "_target_": "nemo.collections.asr.modules.ConvASREncoder",
            "feat_in": 16,
            "activation": "relu",
            "conv_mask": True,
            "jasper": jasper,
        },
        "decoder": {"feat_in": 40, "num_classes": len(LETTERS), "vocabulary": LETTERS},
        "target": "nemo.collections.asr.models.ctc_models.EncDecCTCModel",
    }


def nemo_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Our tensors as NeMo names them: convolutions are wrapped, all layers of a block are `mconv`."""
    named = {"preprocessor.featurizer.window": torch.ones(320), "preprocessor.featurizer.fb": torch.ones(1, 16, 257)}
    for name, tensor in weights.items():
        name = name.replace("encoder.layers.", "encoder.encoder.").replace("decoder.layers.", "decoder.decoder_layers.")
        name = re.sub(r"^(encoder\.encoder\.\d+\.)conv\.", r"\1mconv.", name)
        if name.startswith("encoder") and name.endswith(".weight") and tensor.dim() == 3:
            name = name.removesuffix("weight") + "conv.weight"
        named[name] = tensor
    return named


def write_nemo(path: Path, config: Any, weights: Any, *, mode: str = "w:gz") -> Path:
    stored = io.BytesIO()
    torch.save(weights, stored)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in (
            ("./model_config.yaml", yaml.safe_dump(config).encode()),
            ("./model_weights.ckpt", stored.getvalue()),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def made(separable: bool) -> Jasper:
    torch.manual_seed(2)
    model = Jasper(ModelConfig(preset=None, blocks=blocks(separable=separable)), num_mels=16, num_labels=5).eval()
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("separable", [True, False])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_nemo_file_becomes_a_bundle_with_the_same_log_probs(
    separable: bool, mode: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made(separable)
    path = write_nemo(
        tmp_path / "m.nemo", nemo_config(blocks(separable=separable)), nemo_names(model.state_dict()), mode=mode
    )
    monkeypatch.setattr("sys.argv", ["jobs.convert", str(path), str(tmp_path / "bundle")])
    main()
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (figures["layout"], figures["averaged"]) == ("nemo", False)
    bundle = load_bundle(str(tmp_path / "bundle"))
    assert bundle.alphabet.labels == "".join(LETTERS)
    assert bundle.config.features.log_floor == LOG_FLOOR and bundle.config.features.num_mels == 16
    features, lengths = torch.randn(2, 16, 90), torch.tensor([90, 41])
    with torch.inference_mode():
        torch.testing.assert_close(bundle.model(features, lengths)[0], model(features, lengths)[0], atol=0, rtol=0)


def test_a_checkpoint_of_torch_is_no_tar(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "a.pt")
    assert not is_nemo(tmp_path / "a.pt") and not is_nemo(tmp_path / "none")


def test_a_wrong_shape_names_the_tensor_and_what_was_expected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = nemo_names(made(True).state_dict())
    weights["encoder.encoder.1.mconv.1.conv.weight"] = torch.zeros(3, 16, 1)
    path = write_nemo(tmp_path / "m.nemo", nemo_config(blocks(separable=True)), weights)
    monkeypatch.setattr("sys.argv", ["jobs.convert", str(path), str(tmp_path / "bundle")])
    with pytest.raises(SystemExit, match="1"):
        main()
    error = capsys.readouterr().err
    assert "encoder.layers.1.mconv.1.weight is [3, 16, 1], the model has [24, 16, 1]" in error
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("decoder", "vocabulary", ["the", "##ing"], "vocabulary must be single characters"),
        ("preprocessor", "frame_splicing", 3, "frame_splicing must be 1, got 3"),
        ("preprocessor", "normalize", "fixed", "normalize"),
        ("encoder", "jasper", None, "expected a ConvASREncoder"),
    ],
)
def test_what_is_not_known_here_is_named(tmp_path: Path, section: str, key: str, value: Any, said: str) -> None:
    config = nemo_config(blocks(separable=True))
    config[section][key] = value
    path = write_nemo(tmp_path / "m.nemo", config, nemo_names(made(True).state_dict()))
    with pytest.raises(ConfigError, match=said):
        read_nemo(path)


def test_citrinets_blocks_are_refused_by_their_key(tmp_path: Path) -> None:
    config = nemo_config(blocks(separable=True))
    config["encoder"]["jasper"][2]["se"] = True
    path = write_nemo(tmp_path / "m.nemo", config, {})
    with pytest.raises(ConfigError, match=r"encoder\.jasper\[2\] has se=True"):
        read_nemo(path)


class Trap:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (Path(self.path),)


def test_objects_are_never_run_and_damaged_files_are_named(tmp_path: Path) -> None:
    config = nemo_config(blocks(separable=True))
    path = write_nemo(tmp_path / "trap.nemo", config, {"a": Trap(str(tmp_path / "made"))})
    with pytest.raises(CheckpointError, match="was not run"):
        read_nemo(path)
    assert not (tmp_path / "made").exists()
    whole = write_nemo(tmp_path / "w.nemo", config, nemo_names(made(True).state_dict())).read_bytes()
    (tmp_path / "cut.nemo").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"cut\.nemo"):
        read_nemo(tmp_path / "cut.nemo")
    with tarfile.open(tmp_path / "empty.nemo", "w") as tar:
        tar.addfile(tarfile.TarInfo("notes.txt"))
    with pytest.raises(CheckpointError, match=r"holds notes\.txt, expected model_config\.yaml"):
        read_nemo(tmp_path / "empty.nemo")
