"""Which frames of a batch are padding, batch norm that leaves them out, and utterances taken out of packed rows."""

from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional

from jasper_ray.model.layout import as_picture, like


class Padding(NamedTuple):
    """The padding of a batch at one stride."""

    mask: Tensor
    """`(R, 1, T)` true where a frame belongs to no utterance."""
    num_valid: Tensor
    """Frames of utterances, a scalar."""

    @classmethod
    def of_mask(cls, mask: Tensor) -> Self:
        """With its frames counted."""
        return cls(mask, mask.numel() - mask.sum())

    def strided(self, stride: int) -> "Padding":
        """After a convolution with a stride. Exact since every utterance starts at a multiple of it."""
        return Padding.of_mask(self.mask[..., ::stride].contiguous())


def padding_of(features: Tensor, lengths: Tensor, places: Tensor | None) -> Padding:
    """The frames of `(R, F, T)` features that hold no utterance.

    Args:
        features: Rows; only their shape matters.
        lengths: `(B,)` feature frames of each utterance.
        places: `(B, 2)` row and first frame of each utterance; none if utterance i alone lies at the start of row i.
    """
    num_rows, _, num_frames = features.shape
    if places is None:
        frames = torch.arange(num_frames, device=features.device)
        return Padding.of_mask((frames >= lengths[:, None])[:, None, :])
    rows, starts = places.unbind(1)
    # +1 where an utterance begins, -1 behind its end: the running sum is 1 inside of utterances and 0 elsewhere.
    edges = torch.zeros(num_rows, num_frames + 1, dtype=torch.int32, device=features.device)
    ones = torch.ones_like(rows, dtype=torch.int32)
    edges.index_put_((rows, starts), ones, accumulate=True)
    edges.index_put_((rows, starts + lengths), -ones, accumulate=True)
    return Padding.of_mask((edges.cumsum(1)[:, :-1] == 0)[:, None, :])


def take_utterances(x: Tensor, places: Tensor, *, longest: int) -> Tensor:
    """The utterances of packed rows one below the other.

    Args:
        x: `(R, T, V)` frames of rows.
        places: `(B, 2)` row and first frame of each utterance.
        longest: Frames of the longest utterance.

    Returns:
        `(B, longest, V)`; what lies behind the end of an utterance is not defined.
    """
    rows, starts = places.unbind(1)
    frames = starts[:, None] + torch.arange(longest, device=x.device)
    return x[rows[:, None], frames.clamp(max=x.shape[1] - 1)]


def masked_batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, padding: Padding, *, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm in training whose statistics are those of the utterances alone.

    Args:
        x: `(R, C, T)`; its padding may hold anything.
        weight: `(C,)`.
        bias: `(C,)`.
        padding: Frames to leave out.
        eps: Added to the variance.

    Returns:
        `(R, C, T)` normalised, its padding not zero; `(C,)` mean and `(C,)` unbiased variance, without gradients.
    """
    picture = as_picture(x)
    mask = padding.mask.unsqueeze(2) if picture.dim() > x.dim() else padding.mask
    y, mean, var = _MaskedBatchNorm.apply(picture, weight, bias, mask, padding.num_valid, eps)  # type: ignore[no-untyped-call]
    return like(y, x), mean, var


class _MaskedBatchNorm(torch.autograd.Function):
    """Torch's own batch-norm kernels, one pass each, with their results corrected for the zeros in the padding."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mask: Tensor, num_valid: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        # A product, not `masked_fill`, which took four times as long (2-vCPU AMD EPYC, 2026-11).
        x = x * (~mask).to(x.dtype)
        mean, var, unbiased_var = _valid_statistics(x, num_valid, like=weight)
        y = functional.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)
        ctx.save_for_backward(x, weight, mean, var, mask, num_valid)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, unbiased_var)
        return y, mean, unbiased_var

    @staticmethod
    def backward(ctx: Any, grad_y: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var, mask, num_valid = ctx.saved_tensors
        # As if mean and variance were constants; then what flows through them is taken off.
        grad_x, grad_weight, grad_bias = _batch_norm_backward(grad_y, x, weight, mean, var, ctx.eps)
        scale = weight * (var + ctx.eps).rsqrt() / num_valid
        through = functional.batch_norm(
            x, mean, var, scale * grad_weight, scale * grad_bias, training=False, eps=ctx.eps
        )
        return grad_x.sub_(through).mul_((~mask).to(x.dtype)), grad_weight, grad_bias, None, None, None


def _batch_norm_backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a batch norm with constant mean and variance, of input, weight and bias."""
    if x.device.type == "cpu":
        return torch.ops.aten.native_batch_norm_backward(  # type: ignore[no-any-return]
            grad_y, x, weight, mean, var, None, None, False, eps, [True, True, True]
        )
    # Torch's kernel for CUDA and channels last wants what it saved of its own forward pass.
    deviation = (var + eps).rsqrt()
    shape = [-1 if dim == 1 else 1 for dim in range(x.dim())]
    others = [dim for dim in range(x.dim()) if dim != 1]
    grad = grad_y.float()
    normalised = (x.float() - mean.view(shape)) * deviation.view(shape)
    grad_x = grad * (weight * deviation).view(shape)
    return grad_x.to(x.dtype), (grad * normalised).sum(others), grad.sum(others)


def _valid_statistics(x: Tensor, num_valid: Tensor, *, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, biased and unbiased variance per channel of the valid frames of `(R, C, T)`, whose padding is zero.

    The variance of all frames is sound (no difference of large sums); zeros in a share 1 - 1/r of the frames scale the
    mean by 1/r and add (r - 1) * (mean/r)^2 to the variance times 1/r.
    """
    num_all = x.numel() // x.shape[1]
    mean_of_all, var_of_all = torch.zeros_like(like), torch.ones_like(like)
    torch.batch_norm_update_stats(x, mean_of_all, var_of_all, 1.0)  # gives the unbiased variance
    ratio = num_all / num_valid
    var = ratio * (var_of_all * ((num_all - 1) / num_all) - (ratio - 1) * mean_of_all.square())
    var = var.clamp_(min=0.0)
    return mean_of_all * ratio, var, var * (num_valid / (num_valid - 1).clamp(min=1))
