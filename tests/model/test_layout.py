import pytest
import torch
from torch import Tensor

from jasper_ray.model.batch_norm import BatchNorm
from jasper_ray.model.jasper import mask_padding
from jasper_ray.model.layout import Dropout, is_channels_last
from jasper_ray.model.padding import padding_of


def both_layouts(*shape: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    x = torch.randn(*shape)
    return x.clone().requires_grad_(), x.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()


@pytest.mark.parametrize("excludes_padding", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_is_the_same_in_both_layouts_and_keeps_them(excludes_padding: bool, training: bool) -> None:
    padding = padding_of(torch.zeros(3, 8, 20), torch.tensor([20, 12, 7]), None)
    results = []
    for x in both_layouts(3, 8, 20):
        norm = BatchNorm(8, excludes_padding=excludes_padding).train(training)
        y = norm(x, padding)
        assert is_channels_last(y) == is_channels_last(x)
        y.square().sum().backward()
        assert x.grad is not None and norm.weight.grad is not None
        results.append((y.detach(), x.grad, norm.weight.grad, norm.mean_sum, norm.var_sum))
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


def test_padding_is_set_to_zero_in_both_layouts() -> None:
    padding = padding_of(torch.zeros(3, 8, 20), torch.tensor([20, 12, 7]), None)
    first, second = (mask_padding(x, padding) for x in both_layouts(3, 8, 20))
    assert torch.equal(first, second)
    assert torch.equal(second[1, :, 12:], torch.zeros(8, 8))


@pytest.mark.parametrize("p", [0.0, 0.2, 0.5, 0.9])
def test_dropout_in_words_drops_its_share_and_keeps_the_mean(p: float) -> None:
    torch.manual_seed(0)
    dropout = Dropout(p)
    dropout.in_words = True
    for x in both_layouts(4, 101, 511):
        y = dropout(torch.ones_like(x))
        assert float((y == 0).float().mean()) == pytest.approx(p, abs=0.01)
        assert float(y.mean()) == pytest.approx(1, abs=0.02)
        assert is_channels_last(y) == is_channels_last(x)


def test_dropout_in_words_repeats_with_its_seed_and_rests_in_evaluation() -> None:
    dropout, x = Dropout(0.5), torch.randn(2, 5, 7)
    dropout.in_words = True
    first, second = (dropout(x) for _ in range(2) if torch.manual_seed(4))
    assert torch.equal(first, second)
    assert torch.equal(dropout.eval()(x), x)


def test_dropout_in_words_draws_every_quarter_of_a_word_alike() -> None:
    torch.manual_seed(0)
    dropout = Dropout(0.25)
    dropout.in_words = True
    quarters = dropout(torch.ones(1, 1, 80_000)).view(-1, 4) == 0
    torch.testing.assert_close(quarters.float().mean(0), torch.full((4,), 0.25), atol=0.012, rtol=0)


def test_torchs_own_dropout_is_the_default() -> None:
    x = torch.randn(2, 5, 7)
    torch.manual_seed(4)
    expected = torch.nn.Dropout(0.5)(x)
    torch.manual_seed(4)
    assert torch.equal(Dropout(0.5)(x), expected)
