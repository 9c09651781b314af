from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from jasper_ray.config.model import PRESETS, BlockConfig, ModelConfig, jasper_blocks
from jasper_ray.model.batch_norm import BatchNorm
from jasper_ray.model.ctc import ctc_losses
from jasper_ray.model.jasper import Jasper
from jasper_ray.model.padding import Padding, masked_batch_norm, padding_of, take_utterances

NUM_MELS = 8
# Jasper's own kernels, strides and dilations, with few channels.
MIDDLE = ((256, 11, 0.2), (384, 13, 0.2), (768, 25, 0.3))


def make_model(residual: str = "dense", *, masked: bool = True, stride: int = 2, exclude: bool = True) -> Jasper:
    blocks = list(jasper_blocks(2, MIDDLE, copies=1, scale=1 / 64, residual=residual))
    blocks[0] = blocks[0].model_copy(update={"stride": stride})
    if stride == 1:
        blocks[1] = BlockConfig(filters=16, kernel=9, stride=4)
    return model_of(blocks, masked=masked, exclude=exclude)


def model_of(blocks: Sequence[BlockConfig], *, masked: bool = True, exclude: bool = True) -> Jasper:
    """With random running statistics, for evaluation."""
    torch.manual_seed(3)
    padding = "exclude" if exclude else "include"
    config = ModelConfig(preset=None, blocks=tuple(blocks), masked=masked, batch_norm_padding=padding)
    model = Jasper(config, num_mels=NUM_MELS, num_labels=29)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(std=0.3)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    return model.eval()


def random_layout(seed: int, *, gap: int, stride: int) -> tuple[list[int], list[tuple[int, int]]]:
    """Lengths and places of utterances with the least gaps that are allowed."""
    rng = np.random.default_rng(seed)
    lengths, places = [], []
    for row in range(3):
        start = int(rng.integers(0, 5)) * stride
        for _ in range(int(rng.integers(1, 5))):
            lengths.append(int(rng.integers(20, 90)))
            places.append((row, start))
            start = -(-(start + lengths[-1] + gap) // stride) * stride
    return lengths, places


def pack(utterances: list[Tensor], places: list[tuple[int, int]], *, filling: float = 7.0) -> Tensor:
    """Rows of features with garbage between the utterances."""
    ends = [start + utterance.shape[1] for utterance, (_, start) in zip(utterances, places, strict=True)]
    rows = torch.full((1 + max(row for row, _ in places), NUM_MELS, max(ends)), filling)
    for utterance, (row, start) in zip(utterances, places, strict=True):
        rows[row, :, start : start + utterance.shape[1]] = utterance
    return rows


def largest_difference(model: Jasper, lengths: list[int], places: list[tuple[int, int]]) -> float:
    """Between log-probs of utterances in packed rows and alone."""
    torch.manual_seed(0)
    utterances = [torch.randn(NUM_MELS, length) for length in lengths]
    together, encoded = model(pack(utterances, places), torch.tensor(lengths), torch.tensor(places))
    assert together.shape[:2] == (len(lengths), int(encoded.max()))
    differences = []
    for number, utterance in enumerate(utterances):
        alone, (length,) = model(utterance[None], torch.tensor([utterance.shape[1]]))
        assert encoded[number] == length
        differences.append(float((together[number, :length] - alone[0, :length]).abs().max()))
    return max(differences)


@pytest.mark.parametrize("residual", ["plain", "dense"])
@pytest.mark.parametrize("seed", range(5))
@torch.inference_mode()
def test_an_utterance_has_the_same_log_probs_in_a_packed_row_and_alone(residual: str, seed: int) -> None:
    model = make_model(residual)
    assert largest_difference(model, *random_layout(seed, gap=56, stride=2)) < 1e-4


@pytest.mark.parametrize("preset", PRESETS)
@torch.inference_mode()
def test_packed_rows_are_exact_for_every_preset_with_fewer_channels(preset: str) -> None:
    narrow = [block.model_copy(update={"filters": block.filters // 32}) for block in PRESETS[preset]]
    gap = ModelConfig(preset=preset).packing_gap_frames
    assert largest_difference(model_of(narrow), *random_layout(7, gap=gap, stride=2)) < 1e-4


@torch.inference_mode()
def test_packed_rows_are_exact_for_other_strides_too() -> None:
    model = make_model(stride=1)  # 4 in the second block
    assert model.total_stride == 4
    for seed in range(3):
        assert largest_difference(model, *random_layout(seed, gap=112, stride=4)) < 1e-4


@torch.inference_mode()
def test_a_gap_of_one_frame_less_than_the_widest_convolution_lets_utterances_into_each_other() -> None:
    model = make_model()
    lengths = [60, 60]
    assert largest_difference(model, lengths, [(0, 0), (0, 60 + 56)]) < 1e-4
    assert largest_difference(model, lengths, [(0, 0), (0, 60 + 54)]) > 1e-3


def test_the_gap_that_a_model_needs_is_the_reach_of_its_widest_convolution() -> None:
    assert ModelConfig(preset="jasper10x5dr").packing_gap_frames == 2 * 2 * 14
    wide, narrow = BlockConfig(filters=8, kernel=33, stride=2), BlockConfig(filters=8, kernel=15)
    assert ModelConfig(preset=None, blocks=(wide, narrow)).packing_gap_frames == 16
    assert ModelConfig(preset=None, blocks=(narrow, wide, narrow)).packing_gap_frames == 16
    assert ModelConfig(preset=None, blocks=(wide, narrow, wide)).packing_gap_frames == 32


def test_a_model_without_masks_refuses_packed_rows() -> None:
    model = make_model(masked=False, exclude=False)
    with pytest.raises(ValueError, match=r"several utterances in a row need a model with model.masked=true"):
        model(torch.zeros(1, NUM_MELS, 100), torch.tensor([20]), torch.tensor([[0, 0]]))
    with pytest.raises(ValueError, match=r"batch_norm_padding=exclude needs masked=true"):
        ModelConfig(masked=False, batch_norm_padding="exclude")


def test_gradients_of_packed_utterances_are_those_of_the_utterances_alone() -> None:
    model = make_model()
    lengths, places = random_layout(1, gap=56, stride=2)
    torch.manual_seed(0)
    utterances = [torch.randn(NUM_MELS, length) for length in lengths]
    labels, label_lengths = torch.randint(0, 28, (len(lengths), 4)), torch.full((len(lengths),), 4)
    packed = pack(utterances, places).requires_grad_()
    log_probs, encoded = model(packed, torch.tensor(lengths), torch.tensor(places))
    losses = ctc_losses(log_probs, encoded, labels, label_lengths, blank=28)
    (all_features,) = torch.autograd.grad(losses.sum(), packed, retain_graph=True)
    weights = list(model.parameters())
    for number in (0, len(lengths) - 1):
        features = utterances[number][None].requires_grad_()
        alone, length = model(features, torch.tensor(lengths[number : number + 1]))
        loss = ctc_losses(alone, length, labels[number : number + 1], label_lengths[:1], blank=28).sum()
        torch.testing.assert_close(losses[number], loss, atol=1e-4, rtol=1e-5)
        expected, *expected_weights = torch.autograd.grad(loss, [features, *weights])
        row, start = places[number]
        torch.testing.assert_close(
            all_features[row, :, start : start + lengths[number]], expected[0], atol=1e-4, rtol=1e-3
        )
        for ours, theirs in zip(
            torch.autograd.grad(losses[number], weights, retain_graph=True), expected_weights, strict=True
        ):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def test_training_with_padding_excluded_is_that_of_the_utterances_in_any_layout() -> None:
    """Same losses, gradients and statistics, whether utterances lie in packed rows or each in a padded row."""
    lengths, places = random_layout(2, gap=56, stride=2)
    torch.manual_seed(0)
    utterances = [torch.randn(NUM_MELS, length) for length in lengths]
    one_per_row = [(row, 0) for row in range(len(lengths))]
    results = []
    for layout in (places, one_per_row):
        model = make_model().train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        given = torch.tensor(layout) if layout is places else None
        log_probs, encoded = model(pack(utterances, layout), torch.tensor(lengths), given)
        labels = torch.arange(4).expand(len(lengths), 4)
        ctc_losses(log_probs, encoded, labels, torch.full((len(lengths),), 4), blank=28).sum().backward()
        sums = [module.mean_sum for module in model.modules() if isinstance(module, BatchNorm)]
        results.append([*sums, *(parameter.grad for parameter in model.parameters())])
    for ours, theirs in zip(*results, strict=True):
        scale = float(theirs.abs().max())
        torch.testing.assert_close(ours / scale, theirs / scale, atol=1e-3, rtol=0)


def test_the_mask_of_packed_rows_marks_all_but_the_utterances() -> None:
    features = torch.zeros(2, NUM_MELS, 12)
    padding = padding_of(features, torch.tensor([3, 2, 12]), torch.tensor([[0, 0], [0, 8], [1, 0]]))
    assert padding.mask.int().tolist() == [[[0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 1, 1]], [[0] * 12]]
    assert padding.num_valid == 17
    assert padding.strided(2).mask.int().tolist() == [[[0, 0, 1, 1, 0, 1]], [[0] * 6]]
    alone = padding_of(features, torch.tensor([5, 12]), None)
    assert torch.equal(alone.mask, padding_of(features, torch.tensor([5, 12]), torch.tensor([[0, 0], [1, 0]])).mask)


def test_utterances_are_taken_out_of_rows_also_at_their_very_end() -> None:
    rows = torch.arange(20.0).reshape(2, 10, 1)
    taken = take_utterances(rows, torch.tensor([[1, 7], [0, 2]]), longest=4)
    assert taken[0, :3, 0].tolist() == [17, 18, 19] and taken[1, :, 0].tolist() == [2, 3, 4, 5]


def random_padding(rows: int, frames: int) -> Padding:
    return Padding.of_mask(torch.rand(rows, 1, frames) < 0.4)


@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_masked_batch_norm_is_that_of_the_utterances_behind_each_other(offset: float) -> None:
    torch.manual_seed(0)
    padding = random_padding(4, 50)
    x, weight, bias = torch.randn(4, 6, 50) + offset, torch.rand(6) + 0.5, torch.randn(6)
    valid = x.transpose(1, 2)[~padding.mask[:, 0]].T[None]  # all frames of utterances as one row
    mean, var = torch.zeros(6), torch.ones(6)
    expected = functional.batch_norm(valid, mean, var, weight, bias, training=True, momentum=1.0, eps=1e-3)
    y, our_mean, our_var = masked_batch_norm(x, weight, bias, padding, eps=1e-3)
    torch.testing.assert_close(y.transpose(1, 2)[~padding.mask[:, 0]].T[None], expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(our_mean, mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(our_var, var, atol=1e-5, rtol=1e-4)


def test_gradients_of_masked_batch_norm_are_right_also_where_padding_is_used() -> None:
    torch.manual_seed(0)
    padding = random_padding(2, 9)
    x, weight, bias = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3, 9), (3,), (3,)))
    assert torch.autograd.gradcheck(
        lambda *args: masked_batch_norm(*args, padding, eps=1e-3)[0], (x, weight, bias), check_undefined_grad=False
    )


@pytest.mark.gpu
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_masked_batch_norm_and_packed_rows_on_a_gpu_are_those_on_the_cpu(
    dtype: torch.dtype, channels_last: bool
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    torch.manual_seed(0)
    given = [torch.randn(4, 6, 50), torch.rand(6) + 0.5, torch.randn(6)]
    lengths, places = torch.tensor([30, 9, 50, 41, 12]), torch.tensor([[0, 0], [0, 40], [1, 0], [2, 8], [3, 0]])
    results = []
    for device in ("cpu", "cuda"):
        x, weight, bias = (tensor.to(device).requires_grad_() for tensor in given)
        padding = padding_of(x, lengths.to(device), places.to(device))
        laid_out = x.to(dtype).transpose(1, 2).contiguous().transpose(1, 2) if channels_last else x.to(dtype)
        y, mean, var = masked_batch_norm(laid_out, weight, bias, padding, eps=1e-3)
        taken = take_utterances(y.transpose(1, 2), places.to(device), longest=50)
        grads = torch.autograd.grad(taken.float().square().sum() + taken.float().sum(), [x, weight, bias])
        results.append([tensor.cpu() for tensor in (padding.mask, taken, mean, var, *grads)])
    tolerance = 1e-4 if dtype is torch.float32 else 5e-2
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


def test_without_padding_masked_batch_norm_is_torchs_in_bf16_too() -> None:
    torch.manual_seed(0)
    padding = Padding.of_mask(torch.zeros(4, 1, 50, dtype=torch.bool))
    weight, bias = (torch.rand(6, requires_grad=True) for _ in range(2))
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        x = torch.randn(4, 6, 50).to(dtype).requires_grad_()
        direction = torch.randn(4, 6, 50).to(dtype)
        results = []
        for y in (
            masked_batch_norm(x, weight, bias, padding, eps=1e-3)[0],
            functional.batch_norm(x, None, None, weight, bias, training=True, eps=1e-3),
        ):
            assert y.dtype == dtype
            results.append([y, *torch.autograd.grad((y * direction).sum(), [x, weight, bias])])
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)
