import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

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


def test_quartznet15x5_has_exactly_nvidias_tensor_names_and_shapes(nvidia_fixtures: Path) -> None:
    with torch.device("meta"):
        model = Jasper(ModelConfig(preset="quartznet15x5"), num_mels=64, num_labels=29)
    assert num_parameters(model) == 18_924_381
    ours = {(name, str(tuple(tensor.shape))) for name, tensor in model.state_dict().items()}
    text = (nvidia_fixtures / "keys_quartznet15x5.txt").read_text()
    rows = re.findall(r"^KEY (\S+) (\(.*?\))", text, re.MULTILINE)
    assert len(rows) == 637
    assert ours == set(rows)


def test_a_separable_block_is_a_convolution_per_channel_and_one_per_frame_each_behind_a_mask() -> None:
    torch.manual_seed(5)
    block = BlockConfig(filters=6, kernel=5, repeat=2, residual="plain", separable=True)
    model = Jasper(ModelConfig(preset=None, blocks=(block,)), num_mels=4, num_labels=3)
    x, lengths = torch.randn(2, 4, 20), torch.tensor([20, 13])
    valid = (torch.arange(20) < lengths[:, None])[:, None, :]
    layers = model.encoder.layers[0]
    features = torch.where(valid, x, 0.0)
    expected = features
    for first in (0, 5):
        depthwise, pointwise, norm = layers.mconv[first : first + 3]
        per_channel = [
            functional.conv1d(expected[:, c : c + 1], depthwise.weight[c : c + 1], padding=2)
            for c in range(expected.shape[1])
        ]
        mixed = torch.einsum("oc,bct->bot", pointwise.weight[:, :, 0], torch.where(valid, torch.cat(per_channel, 1), 0))
        # The statistics of training see what a mask left between the two convolutions.
        mean, var = mixed.mean((0, 2), keepdim=True), mixed.var((0, 2), unbiased=False, keepdim=True)
        expected = (mixed - mean) / torch.sqrt(var + norm.eps)
        if first == 0:
            expected = torch.where(valid, expected.relu(), 0.0)
    branch = torch.einsum("oc,bct->bot", layers.res[0][0].weight[:, :, 0], features)
    mean, var = branch.mean((0, 2), keepdim=True), branch.var((0, 2), unbiased=False, keepdim=True)
    expected = (expected + (branch - mean) / torch.sqrt(var + 1e-3)).relu()
    torch.testing.assert_close(model.encoder(x, lengths)[0], expected, atol=1e-5, rtol=1e-5)


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


def small_model(seed: int = 3, residual: str = "dense", *, masked: bool = True, separable: bool = False) -> Jasper:
    torch.manual_seed(seed)
    blocks = (
        BlockConfig(filters=16, kernel=11, stride=2, dropout=0.2),
        BlockConfig(filters=16, kernel=5, repeat=2, residual=residual, dropout=0.2, separable=separable),
        BlockConfig(filters=24, kernel=7, repeat=2, residual=residual, dropout=0.2, separable=separable),
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


@pytest.mark.parametrize("separable", [False, True])
@pytest.mark.parametrize("residual", ["none", "plain", "dense"])
@torch.inference_mode()
def test_an_utterance_has_the_same_log_probs_alone_and_in_any_padding(residual: str, separable: bool) -> None:
    model = small_model(residual=residual, separable=separable)
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
