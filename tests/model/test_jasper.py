import re
from pathlib import Path

import numpy as np
import pytest
import torch

from jasper_ray.config.model import BlockConfig, ModelConfig
from jasper_ray.model.jasper import Jasper, num_parameters


def nvidia_model_config(encoder: dict) -> ModelConfig:
    """NVIDIA's yaml schema of an encoder as our config."""
    blocks = tuple(
        BlockConfig(
            filters=block["filters"],
            kernel=block["kernel_size"][0],
            stride=block["stride"][0],
            dilation=block["dilation"][0],
            repeat=block["repeat"],
            dropout=block["dropout"],
            residual=("dense" if block.get("residual_dense") else "plain") if block["residual"] else "none",
        )
        for block in encoder["blocks"]
    )
    return ModelConfig(preset=None, blocks=blocks, masked=encoder["use_conv_masks"])


def test_jasper10x5dr_has_exactly_nvidias_number_of_parameters() -> None:
    with torch.device("meta"):
        model = Jasper(ModelConfig(preset="jasper10x5dr"), num_mels=64, num_labels=29)
    assert num_parameters(model) == 332_632_349
    assert num_parameters(model.encoder) == 332_602_624
    assert len(list(model.parameters())) == 326
    assert len(model.state_dict()) == 650


def test_jasper10x5dr_has_exactly_nvidias_tensor_names_and_shapes(nvidia_fixtures: Path) -> None:
    with torch.device("meta"):
        model = Jasper(ModelConfig(preset="jasper10x5dr"), num_mels=64, num_labels=29)
    ours = {(name, str(tuple(tensor.shape))) for name, tensor in model.state_dict().items()}
    rows = re.findall(r"^KEY (\S+) (\(.*?\))", (nvidia_fixtures / "keys_jasper10x5dr.txt").read_text(), re.MULTILINE)
    assert len(rows) == 650
    assert ours == set(rows)


def test_log_probs_equal_nvidias_for_the_same_weights(nvidia_fixtures: Path) -> None:
    saved = torch.load(nvidia_fixtures / "jasper5x1dr_masked.pt", weights_only=True)
    arrays = np.load(nvidia_fixtures / "jasper5x1dr_masked.npz")
    config = nvidia_model_config(saved["config"]["jasper"]["encoder"])
    model = Jasper(config, num_mels=64, num_labels=29)
    model.load_state_dict(saved["state_dict"])
    model.eval()
    with torch.inference_mode():
        feats, lens = torch.from_numpy(arrays["feats"]), torch.from_numpy(arrays["feat_lens"]).long()
        encoded, _ = model.encoder(feats, lens)
        log_probs, lengths = model(feats, lens)
    assert lengths.tolist() == arrays["enc_lens"].tolist()
    np.testing.assert_allclose(encoded.numpy(), arrays["enc_out"], atol=1e-4)
    np.testing.assert_allclose(log_probs.numpy(), arrays["log_probs"], atol=1e-5)


def small_model(seed: int = 3, residual: str = "dense", masked: bool = True) -> Jasper:
    torch.manual_seed(seed)
    blocks = (
        BlockConfig(filters=16, kernel=11, stride=2, dropout=0.2),
        BlockConfig(filters=16, kernel=5, repeat=2, residual=residual, dropout=0.2),
        BlockConfig(filters=24, kernel=7, repeat=2, residual=residual, dropout=0.2),
        BlockConfig(filters=24, kernel=9, dilation=2),
        BlockConfig(filters=32, kernel=1),
    )
    model = Jasper(ModelConfig(preset=None, blocks=blocks, masked=masked), num_mels=8, num_labels=5)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    return model.eval()


@pytest.mark.parametrize("residual", ["none", "plain", "dense"])
@torch.inference_mode()
def test_an_utterance_has_the_same_log_probs_alone_and_in_any_padding(residual: str) -> None:
    model = small_model(residual=residual)
    features = torch.randn(1, 8, 37)
    alone, (length,) = model(features, torch.tensor([37]))
    padded = torch.full((3, 8, 90), 7.0)  # garbage in the padding
    padded[1, :, :37] = features[0]
    together, lengths = model(padded, torch.tensor([90, 37, 1]))
    assert lengths.tolist() == [45, 19, 1]
    torch.testing.assert_close(together[1, :length], alone[0, :length], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_without_masks_padding_leaks_into_the_log_probs() -> None:
    model = small_model(masked=False)
    features = torch.randn(1, 8, 37)
    alone, (length,) = model(features, torch.tensor([37]))
    padded = torch.nn.functional.pad(features, (0, 50), value=7.0)
    together, _ = model(padded, torch.tensor([37]))
    assert (together[0, :length] - alone[0, :length]).abs().max() > 1e-2


def test_training_normalises_like_torch_and_leaves_running_statistics_alone() -> None:
    model = small_model().train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(torch.randn(2, 8, 40), torch.tensor([40, 30]))
    after = dict(model.named_buffers())
    assert all(torch.equal(before[name], after[name]) for name in before if "running" in name)
    assert any(after[name].abs().sum() > 0 for name in after if name.endswith("mean_sum"))


def test_an_even_kernel_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"kernel must be odd, got 4"):
        BlockConfig(filters=8, kernel=4)
