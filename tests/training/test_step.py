from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jasper_ray.config.model import BlockConfig, ModelConfig
from jasper_ray.config.schema import OptimizerConfig, TrainingConfig
from jasper_ray.data.batch import Batch
from jasper_ray.errors import ConfigError
from jasper_ray.model.convolution import set_convolution_method
from jasper_ray.model.jasper import Jasper
from jasper_ray.training.ema import WeightAverage
from jasper_ray.training.optimizers import build_optimizer
from jasper_ray.training.step import TrainStep
from jasper_ray.training.world import World


def nvidia_blocks(encoder: dict[str, Any]) -> tuple[BlockConfig, ...]:
    return tuple(
        BlockConfig(
            filters=block["filters"],
            kernel=block["kernel_size"][0],
            stride=block["stride"][0],
            dilation=block["dilation"][0],
            repeat=block["repeat"],
            residual="dense" if block.get("residual_dense") else "none",
        )
        for block in encoder["blocks"]
    )


def make_step(model: Jasper, average: WeightAverage | None = None, precision: str = "fp32") -> TrainStep:
    optimizer = build_optimizer(model, OptimizerConfig(lr=0.01))
    config = TrainingConfig(precision=precision)
    return TrainStep(model, optimizer, average, world=World(), config=config, blank=28, seed=0)


def make_batch(features: Tensor, lengths: Tensor, labels: Tensor, label_lengths: Tensor) -> Batch:
    return Batch(features, lengths.long(), labels.long(), label_lengths.long(), tuple(range(len(features))), 1.0)


def test_three_updates_equal_nvidias(nvidia_fixtures: Path) -> None:
    saved = torch.load(nvidia_fixtures / "train3x2dr_novograd.pt", weights_only=True)
    arrays = {name: torch.from_numpy(a) for name, a in np.load(nvidia_fixtures / "train3x2dr_novograd.npz").items()}
    blocks = nvidia_blocks(saved["config"]["jasper"]["encoder"])
    model = Jasper(ModelConfig(preset=None, blocks=blocks), num_mels=64, num_labels=29)
    model.load_state_dict(saved["state_dict_step0"])
    average = WeightAverage(model, decay=0.999)
    step = make_step(model, average)
    batch = make_batch(arrays["feats"], arrays["feat_lens"], arrays["txt"], arrays["txt_lens"])
    for update in (1, 2, 3):
        result = step.run([batch], [0], global_step=update - 1, num_utterances=4, lr=0.01)
        assert result.loss == pytest.approx(float(arrays[f"loss_step{update}"]), rel=1e-5)
        for name, tensor in saved[f"state_dict_step{update}"].items():
            torch.testing.assert_close(model.state_dict()[name], tensor, atol=1e-5, rtol=1e-5, msg=f"{update} {name}")
    for name, tensor in saved["ema_after3"].items():
        if tensor.is_floating_point():
            torch.testing.assert_close(average.weights[name], tensor, atol=1e-5, rtol=1e-5, msg=name)


def small_model(*, dropout: float = 0.2, batch_norm_padding: str = "include") -> Jasper:
    torch.manual_seed(0)
    blocks = (
        BlockConfig(filters=16, kernel=11, stride=2, dropout=dropout),
        BlockConfig(filters=16, kernel=5, dropout=dropout),
    )
    config = ModelConfig(preset=None, blocks=blocks, batch_norm_padding=batch_norm_padding)
    return Jasper(config, num_mels=8, num_labels=29)


def random_batches(count: int) -> list[Batch]:
    torch.manual_seed(1)
    return [
        make_batch(torch.randn(2, 8, 60), torch.tensor([60, 50]), torch.randint(0, 28, (2, 5)), torch.tensor([5, 3]))
        for _ in range(count)
    ]


def test_dropout_is_drawn_from_step_and_microbatch_not_from_what_ran_before() -> None:
    results = []
    for noise in (0, 7):
        step = make_step(small_model())
        torch.rand(noise)  # another state of the global generator
        results.append(step.run(random_batches(2), [0, 1], global_step=5, num_utterances=4, lr=0.01).loss)
    other = make_step(small_model()).run(random_batches(2), [0, 1], global_step=6, num_utterances=4, lr=0.01).loss
    assert results[0] == results[1] != other


def test_the_figures_of_a_step_are_those_of_its_batches() -> None:
    result = make_step(small_model()).run(random_batches(3), [0, 1, 2], global_step=0, num_utterances=6, lr=0.01)
    assert (result.num_utterances, result.audio_s, result.skipped) == (6, 3.0, False)
    assert result.padding_share == pytest.approx(1 - 110 / 120)


def packed_and_padded() -> tuple[Batch, Batch]:
    """Five utterances in two rows of 160 frames, and each in a row of its own."""
    torch.manual_seed(1)
    lengths, places = [60, 41, 20, 100, 37], [(0, 0), (0, 72), (0, 128), (1, 0), (1, 120)]
    labels, label_lengths = torch.randint(0, 28, (5, 4)), torch.tensor([4, 3, 2, 4, 1])
    packed, padded = torch.zeros(2, 8, 160), torch.zeros(5, 8, 112)
    for number, (length, (row, start)) in enumerate(zip(lengths, places, strict=True)):
        padded[number, :, :length] = packed[row, :, start : start + length] = torch.randn(8, length)
    batch = make_batch(padded, torch.tensor(lengths), labels, label_lengths)
    return replace(batch, features=packed, places=torch.tensor(places), longest=100), batch


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 3e-2)])
def test_a_step_on_packed_rows_is_that_on_padded_utterances(precision: str, tolerance: float) -> None:
    results = []
    for batch in packed_and_padded():
        model = small_model(dropout=0.0, batch_norm_padding="exclude")
        step = make_step(model, precision=precision)
        result = step.run([batch, batch], [0, 1], global_step=0, num_utterances=10, lr=0.01)
        results.append((result, dict(model.state_dict())))
    (packed, weights), (padded, expected) = results
    assert packed.loss == pytest.approx(padded.loss, rel=tolerance)
    assert packed.grad_norm == pytest.approx(padded.grad_norm, rel=tolerance)
    assert (packed.num_utterances, packed.audio_s) == (10, 2.0)
    assert packed.padding_share == pytest.approx(1 - 258 / 320)
    assert padded.padding_share == pytest.approx(1 - 258 / 560)
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, expected[name], atol=tolerance, rtol=10 * tolerance, msg=name)
    for result in (packed, padded):
        row, log_probs, length = result.sample
        assert row == 0 and length.tolist() == [30]
        torch.testing.assert_close(log_probs[0, :30], padded.sample[1][0, :30], atol=10 * tolerance, rtol=0)


def test_a_packed_utterance_without_finite_loss_is_named_and_its_neighbours_are_not() -> None:
    packed, _ = packed_and_padded()
    impossible = replace(
        packed, feature_lengths=torch.tensor([60, 41, 4, 100, 37]), label_lengths=torch.tensor([4] * 5)
    )
    step = make_step(small_model(batch_norm_padding="exclude"))
    result = step.run([impossible], [0], global_step=0, num_utterances=5, lr=0.01)
    assert result.skipped and result.bad_rows == (2,)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_without_finite_loss_changes_nothing_and_names_the_rows(precision: str) -> None:
    model = small_model()
    average = WeightAverage(model, decay=0.9)
    step = make_step(model, average, precision)
    (batch,) = random_batches(1)
    infeasible = make_batch(batch.features, torch.tensor([60, 4]), batch.labels, torch.tensor([5, 5]))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = step.run([infeasible], [0], global_step=0, num_utterances=2, lr=0.01)
    assert result.skipped and result.bad_rows == (1,)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    good = step.run([batch], [0], global_step=1, num_utterances=2, lr=0.01)
    assert not good.skipped and good.bad_rows == ()


def step_with_ctc(ctc: str, model: Jasper) -> TrainStep:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return TrainStep(model, optimizer, None, world=World(), config=TrainingConfig(ctc=ctc), blank=28, seed=0)


@pytest.mark.parametrize(
    ("config", "instead"),
    [({"normalization": "triton"}, "normalization=auto or torch"), ({"cuda_graphs": True}, "cuda_graphs=false")],
)
def test_what_needs_triton_is_refused_on_a_cpu(config: dict[str, Any], instead: str) -> None:
    model = small_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ConfigError, match=rf"a Triton that works there, .* on cpu, .* take training\.{instead}"):
        TrainStep(model, optimizer, None, world=World(), config=TrainingConfig(**config), blank=28, seed=0)


@pytest.mark.parametrize("ctc", ["auto", "torch"])
def test_tritons_ctc_is_refused_on_a_cpu_and_torchs_is_not(ctc: str) -> None:
    with pytest.raises(ConfigError, match=r"training\.ctc=triton needs an NVIDIA GPU .* on cpu, .*ctc=auto or torch"):
        step_with_ctc("triton", small_model())
    assert step_with_ctc(ctc, small_model()).device.type == "cpu"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_step_with_tritons_ctc_is_a_step_with_torchs(
    triton_interpreter: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jasper_ray.training.step.triton_runs", lambda device: True)
    (batch,) = random_batches(1)
    infeasible = make_batch(batch.features, torch.tensor([60, 4]), batch.labels, torch.tensor([5, 5]))
    results, weights = [], []
    for ctc in ("torch", "triton"):
        model = small_model()
        step = step_with_ctc(ctc, model)
        step.probe(batch)
        results.append(step.run([batch], [0], global_step=0, num_utterances=2, lr=0.1))
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
        refused = step.run([infeasible], [0], global_step=1, num_utterances=2, lr=0.1)
        assert refused.skipped and refused.bad_rows == (1,)
        assert torch.equal(weights[-1], torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert results[1].loss == pytest.approx(results[0].loss, rel=1e-5)
    assert results[1].grad_norm == pytest.approx(results[0].grad_norm, rel=1e-4)
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-5)  # of updates of a hundredth


@pytest.mark.gpu
@pytest.mark.parametrize("ctc", ["torch", "triton"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_steps_on_a_gpu_learn(precision: str, ctc: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    model = small_model().cuda()
    config = TrainingConfig(precision=precision, ctc=ctc)
    optimizer = build_optimizer(model, OptimizerConfig(lr=0.01))
    world = World(device=torch.device("cuda", 0))
    step = TrainStep(model, optimizer, None, world=world, config=config, blank=28, seed=0)
    losses = [step.run(random_batches(2), [0, 1], global_step=n, num_utterances=4, lr=0.01).loss for n in range(30)]
    assert losses[-1] < losses[0]


def test_spectra_of_weights_are_renewed_after_every_kind_of_update() -> None:
    model = small_model()
    set_convolution_method(model, "frequency")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)  # torch does not count its changes
    step = TrainStep(model, optimizer, None, world=World(), config=TrainingConfig(), blank=28, seed=0)
    step.run(random_batches(1), [0], global_step=0, num_utterances=2, lr=0.1)
    model.eval()
    batch = random_batches(1)[0]
    log_probs, _ = model(batch.features, batch.feature_lengths)
    set_convolution_method(model, "conv1d")
    expected, _ = model(batch.features, batch.feature_lengths)
    torch.testing.assert_close(log_probs, expected, atol=1e-4, rtol=1e-4)


def test_a_gradient_above_the_limit_moves_the_weights_in_its_direction_by_the_limit_only() -> None:
    moves, norms = [], []
    for max_grad_norm in (None, 1e9, 0.5):
        model = small_model(dropout=0.0)
        before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        step = TrainStep(
            model,
            torch.optim.SGD(model.parameters(), lr=1.0),
            None,
            world=World(rank=0, size=1, device=torch.device("cpu")),
            config=TrainingConfig(max_grad_norm=max_grad_norm),
            blank=28,
            seed=0,
        )
        norms.append(step.run(random_batches(2), [0, 1], global_step=0, num_utterances=4, lr=1.0).grad_norm)
        moved = [(before[name] - parameter.detach()).flatten() for name, parameter in model.named_parameters()]
        moves.append(torch.cat(moved))
    assert norms[0] == norms[1] == norms[2] > 0.5
    assert torch.equal(moves[0], moves[1])
    assert float(moves[2].norm()) == pytest.approx(0.5, rel=1e-3)
    torch.testing.assert_close(moves[2] * (norms[0] / 0.5), moves[0], rtol=1e-3, atol=1e-4)
