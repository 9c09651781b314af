"""The thing that all ratios are against computes what NVIDIA's code computes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.yardstick import (
    YardstickFeatures,
    YardstickJasper,
    YardstickNovograd,
    collapse,
    greedy_collapse,
    train_step,
)
from jasper_ray.audio.filterbank import Filterbank
from jasper_ray.config.model import BlockConfig, ModelConfig
from jasper_ray.config.speech import FeatureConfig
from jasper_ray.model.ctc import greedy_decode
from jasper_ray.model.jasper import Jasper


def block_config(block: dict) -> BlockConfig:
    """A block of NVIDIA's yaml as ours."""
    dense = "dense" if block.get("residual_dense") else "plain"
    return BlockConfig(
        filters=block["filters"],
        kernel=block["kernel_size"][0],
        stride=block["stride"][0],
        dilation=block["dilation"][0],
        repeat=block["repeat"],
        dropout=block["dropout"],
        residual=dense if block["residual"] else "none",
    )


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Weights and statistics that make every layer matter."""
    torch.manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var") or (name.endswith("weight") and tensor.dim() == 1):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            tensor.normal_(std=0.3)


def test_it_gives_nvidias_log_probs_for_nvidias_weights(nvidia_fixtures: Path) -> None:
    saved = torch.load(nvidia_fixtures / "jasper5x1dr_masked.pt", weights_only=True)
    arrays = np.load(nvidia_fixtures / "jasper5x1dr_masked.npz")
    blocks = tuple(block_config(block) for block in saved["config"]["jasper"]["encoder"]["blocks"])
    model = YardstickJasper(ModelConfig(preset=None, blocks=blocks), num_mels=64, num_labels=29)
    model.load_state_dict(saved["state_dict"])
    model.eval()
    with torch.inference_mode():
        log_probs, lengths = model(torch.from_numpy(arrays["feats"]), torch.from_numpy(arrays["feat_lens"]))
    assert lengths.tolist() == arrays["enc_lens"].tolist()
    np.testing.assert_allclose(log_probs.numpy(), arrays["log_probs"], atol=1e-5)


@pytest.mark.parametrize("residual", ["dense", "plain"])
def test_it_gives_our_models_log_probs_for_the_same_weights(residual: str) -> None:
    blocks = (
        BlockConfig(filters=16, kernel=11, stride=2, dropout=0.2),
        BlockConfig(filters=24, kernel=5, repeat=2, residual=residual),
        BlockConfig(filters=32, kernel=7, repeat=2, residual=residual),
        BlockConfig(filters=24, kernel=9, dilation=2),
    )
    config = ModelConfig(preset=None, blocks=blocks)
    ours = Jasper(config, num_mels=16, num_labels=9)
    randomise(ours, seed=1)
    yardstick = YardstickJasper(config, num_mels=16, num_labels=9)
    yardstick.load_state_dict(ours.state_dict())
    features, lengths = torch.randn(3, 16, 97), torch.tensor([97, 60, 1])
    with torch.inference_mode():
        expected, expected_lengths = ours.eval()(features, lengths)
        log_probs, encoder_lengths = yardstick.eval()(features, lengths)
    assert torch.equal(encoder_lengths, expected_lengths)
    torch.testing.assert_close(log_probs, expected, atol=1e-5, rtol=0)


class CountCalls(TorchDispatchMode):
    """Counts ATen calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.calls += 1
        return func(*args, **(kwargs or {}))


def test_a_forward_pass_of_10x5_takes_as_many_calls_as_nvidias() -> None:
    with torch.device("meta"):
        model = YardstickJasper(ModelConfig(preset="jasper10x5dr"), num_mels=64, num_labels=29).eval()
        features, lengths = torch.empty(1, 64, 704), torch.empty(1, dtype=torch.int64)
    with torch.no_grad(), CountCalls() as counted:
        model(features, lengths)
    assert counted.calls == pytest.approx(1841, rel=0.01)


def test_its_features_are_nvidias_and_nearly_ours(nvidia_fixtures: Path) -> None:
    arrays = np.load(nvidia_fixtures / "features_nondali.npz")
    names = [str(name) for name in arrays["batch_order"]]
    waveforms = [torch.from_numpy(arrays[f"audio_{name}"]).float() for name in names]
    lengths = torch.tensor([len(waveform) for waveform in waveforms])
    padded = torch.nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
    features, frames = YardstickFeatures(FeatureConfig())(padded, lengths)
    assert frames.tolist() == arrays["batch_feat_lens"].tolist()
    np.testing.assert_allclose(features.numpy(), arrays["batch_feat"], atol=5e-4)
    longest = int(lengths.argmax())
    ours = Filterbank(FeatureConfig())(waveforms[longest])
    np.testing.assert_allclose(features[longest, :, : ours.shape[1]].numpy(), ours.numpy(), atol=2e-3)


def test_its_greedy_loop_gives_nvidias_and_our_labels(nvidia_fixtures: Path) -> None:
    torch.manual_seed(4)
    log_probs = torch.randn(6, 50, 4).log_softmax(2)
    ours = greedy_decode(log_probs, torch.full((6,), 50), blank=3)
    assert greedy_collapse(log_probs, blank=3) == ours
    for case in json.loads((nvidia_fixtures / "decode_wer.json").read_text())["greedy"]:
        labels = [" abcdefghijklmnopqrstuvwxyz'"[label] for label in collapse(case["ids"], blank=28)]
        assert "".join(labels) == case["text"]


def test_three_training_steps_are_nvidias(nvidia_fixtures: Path) -> None:
    saved = torch.load(nvidia_fixtures / "train3x2dr_novograd.pt", weights_only=True)
    arrays = np.load(nvidia_fixtures / "train3x2dr_novograd.npz")
    blocks = tuple(block_config(block) for block in saved["config"]["jasper"]["encoder"]["blocks"])
    model = YardstickJasper(ModelConfig(preset=None, blocks=blocks), num_mels=64, num_labels=29).train()
    model.load_state_dict(saved["state_dict_step0"])
    optimizer = YardstickNovograd(model.parameters(), lr=0.01)
    batch = [torch.from_numpy(arrays[name]) for name in ("feats", "feat_lens", "txt", "txt_lens")]
    for step in (1, 2, 3):
        assert train_step(model, optimizer, *batch) == pytest.approx(float(arrays[f"loss_step{step}"]), abs=1e-3)
        for name, expected in saved[f"state_dict_step{step}"].items():
            torch.testing.assert_close(model.state_dict()[name], expected, atol=1e-5, rtol=0, msg=name)
