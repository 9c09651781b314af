"""Dense residuals in training as one matrix product for each block.

A branch is a 1x1 convolution W and a batch norm, linear in its input x but for the statistics of W x. These follow from
the mean m and the covariance K of x: W m, and the diagonal of W K W'. All later blocks share m and K, so no branch's
output is written or read: a block's branches are one product over all earlier outputs side by side, by weights into
which the norms are folded. Of the 61,056 channels that jasper10x5dr's convolutions write per frame, 33,280 are of
branches; sums of 5,120 are left of them, at the cost of a covariance for each of ten inputs.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from jasper_ray.model import residual_triton
from jasper_ray.model.batch_norm import BatchNorm
from jasper_ray.model.convolution import dtype_of_products
from jasper_ray.model.norm_triton import is_frame_by_frame
from jasper_ray.model.padding import Padding
from jasper_ray.model.triton_trial import triton_runs


class Branch(NamedTuple):
    """A residual branch."""

    conv: nn.Conv1d
    """`(C', C, 1)`, without bias."""
    norm: BatchNorm


class Residual(NamedTuple):
    """What a block's branches add to it."""

    frames: Tensor
    """`(R, C, T)`, without the shift; what it holds in the padding is not defined."""
    shift: Tensor
    """`(C,)` fp32, to be added to every frame."""


class FoldedResiduals:
    """The branches of a chain of dense blocks, in one forward pass of training.

    Args:
        blocks: For each block its branches, one for each input of a block so far: the k-th has k + 1.
        padding: Frames of no utterance, alike in all blocks; none known, all frames count.
    """

    def __init__(self, blocks: Sequence[Sequence[Branch]], padding: Padding | None) -> None:
        self._blocks = blocks
        excludes = padding is not None and blocks[0][0].norm.excludes_padding
        self._num_valid = padding.num_valid if padding is not None and excludes else None
        widths = [branch.conv.in_channels for branch in blocks[-1]]
        self._ends = [sum(widths[: i + 1]) for i in range(len(widths))]
        self._shared = _Shared()
        self._pieces: list[list[tuple[Tensor, Tensor]]] = []
        self._shape: tuple[int, int] = (0, 0)

    def add(self, x: Tensor) -> Tensor:
        """Take over the input of the next block, `(R, C, T)` with zeros in the padding; what is given back goes on."""
        position = len(self._pieces)
        branches = [block[position] for block in self._blocks[position:]]
        if position == 0:
            num_rows, _, num_frames = x.shape
            self._shape = (num_rows, num_frames)
            self._shared.begin(num_rows * num_frames, self._ends[-1], dtype_of_products(x), x.device)
        outputs = [branch.conv.out_channels for branch in branches]
        weights = torch.cat([branch.conv.weight for branch in branches]).squeeze(2)
        scales = torch.cat([branch.norm.weight for branch in branches])
        begin, end = self._ends[position] - x.shape[1], self._ends[position]
        given = _Given(self._shared, begin, end, self._num_valid, branches[0].norm.eps)
        x, folded, shift, mean, var = _Fold.apply(x, weights, scales, given)  # type: ignore[no-untyped-call]
        with torch.no_grad():  # all branches in two launches
            torch._foreach_add_([branch.norm.mean_sum for branch in branches], list(mean.split(outputs)))
            torch._foreach_add_([branch.norm.var_sum for branch in branches], list(var.split(outputs)))
        shift = shift + torch.cat([branch.norm.bias for branch in branches])
        self._pieces.append(list(zip(folded.split(outputs), shift.split(outputs), strict=True)))
        return x

    def residual(self) -> Residual:
        """Of the block whose input was added last."""
        number = len(self._pieces) - 1
        pieces = [source[number - position] for position, source in enumerate(self._pieces)]
        weight = torch.cat([piece for piece, _ in pieces], dim=1)
        frames = _Product.apply(weight, self._shared)  # type: ignore[no-untyped-call]
        shift = torch.stack([shift for _, shift in pieces]).sum(0)
        return Residual(frames.view(*self._shape, -1).transpose(1, 2), shift)


class _Shared:
    """All sources side by side; and, while a backward pass goes from the last block to the first, their gradients."""

    def __init__(self) -> None:
        self.values: Tensor
        self.grads: Tensor | None = None

    def begin(self, num_frames: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        # On a CPU zeros: by AMX oneDNN reads on behind a part of them, and multiplies that by zeros.
        new = torch.zeros if device.type == "cpu" else torch.empty
        self.values = new(num_frames, width, dtype=dtype, device=device)

    def add_grad(self, grad: Tensor, weight: Tensor) -> None:
        """Add `(M, C')` times `(C', width)`; the last block, which comes first, has the largest width."""
        if self.grads is None:
            self.grads = grad @ weight
        else:
            self.grads[:, : weight.shape[1]].addmm_(grad, weight)


class _Given(NamedTuple):
    shared: _Shared
    begin: int
    end: int
    num_valid: Tensor | None
    eps: float


class _Fold(torch.autograd.Function):
    """The weights of the branches that read one source, their norms folded in.

    Gradients that products have left in `shared` join here: the weights' gradients come last from the products, so all
    of them have run.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, scales: Tensor, given: _Given) -> tuple[Tensor, ...]:
        num_rows, channels, num_frames = x.shape
        values = given.shared.values[:, given.begin : given.end]
        rows = values.view(num_rows, num_frames, channels)
        with _exactly(x):
            if _is_in_triton(x, values):
                total = residual_triton.gather(x, values)
            else:
                rows.copy_(x.transpose(1, 2))
                total = values.sum(0, dtype=weights.dtype)
            # Filled on the device: a copy from the host could not be captured in a graph.
            count = weights.new_full((), len(values)) if given.num_valid is None else given.num_valid.to(weights)
            count = count.clamp(min=1.0)
            mean = total / count
            # Not as a product, which TF32 would round: little may be left of a large second moment.
            covariance = (_square(rows, weights.dtype) / count).addcmul_(mean[:, None], mean[None, :], value=-1)
            along = weights @ covariance
            var = (along * weights).sum(1).clamp_(min=0.0)
            deviation = (var + given.eps).rsqrt()
            factor = scales * deviation
            output_mean = weights @ mean
            folded = (factor[:, None] * weights).to(values.dtype)
            shift = -factor * output_mean
            unbiased = var * (count / (count - 1).clamp(min=1.0))
        ctx.save_for_backward(weights, scales, mean, along, deviation, output_mean, count)
        ctx.given, ctx.shape = given, x.shape
        ctx.mark_non_differentiable(output_mean, unbiased)
        return x.view_as(x), folded, shift, output_mean, unbiased

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_x: Tensor, grad_folded: Tensor, grad_shift: Tensor, *_: Tensor) -> tuple[Any, ...]:
        weights, scales, mean, along, deviation, output_mean, count = ctx.saved_tensors
        given: _Given = ctx.given
        with _exactly(grad_x):
            grad_folded = grad_folded.to(weights.dtype)
            factor = scales * deviation
            grad_factor = (grad_folded * weights).sum(1) - grad_shift * output_mean
            grad_var = grad_factor * factor * deviation.square() * -0.5
            grad_output_mean = -factor * grad_shift
            twice = 2 * grad_var[:, None]
            grad_weights = factor[:, None] * grad_folded + twice * along
            grad_weights.addr_(grad_output_mean, mean)
            grad_scales = grad_factor * deviation
            if ctx.needs_input_grad[0]:
                slope = weights.T @ (twice * weights) / count
                level = (weights.T @ grad_output_mean) / count - slope @ mean
                grad_x = _grad_of_source(grad_x, given, slope, level)
        if given.begin == 0:
            given.shared.grads = None
        return grad_x, grad_weights, grad_scales, None


def _grad_of_source(grad_x: Tensor, given: _Given, slope: Tensor, level: Tensor) -> Tensor:
    """`grad_x` `(R, C, T)`, what the products left, and what flows through the statistics, in one."""
    num_rows, channels, num_frames = grad_x.shape
    values = given.shared.values[:, given.begin : given.end]
    assert given.shared.grads is not None
    grads = given.shared.grads[:, given.begin : given.end]
    if _is_in_triton(grad_x, values):
        largest = slope.abs().amax().clamp(min=torch.finfo(slope.dtype).tiny)
        through = values @ (slope / largest).to(values.dtype)
        return residual_triton.join(grad_x, grads, through, largest, level)
    if values.dtype == torch.float16:  # gradients of second moments are too small for it
        largest = slope.abs().amax().clamp(min=torch.finfo(slope.dtype).tiny)
        through = (values @ (slope / largest).half()).float() * largest + level
        grads = (grads + through).half()
    else:
        grads.addmm_(values, slope.to(values.dtype))
        grads += level.to(values.dtype)
    return grad_x + grads.reshape(num_rows, num_frames, channels).transpose(1, 2)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, shared: _Shared) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shared = shared
        return shared.values[:, : weight.shape[1]] @ weight.T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (weight,) = ctx.saved_tensors
        shared: _Shared = ctx.shared
        shared.add_grad(grad, weight)
        return grad.T @ shared.values[:, : weight.shape[1]], None


def _square(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum of the outer products of all frames of `(R, T, C)`, `(C, C)` in `dtype` of 32 bits or more."""
    if rows.dtype == dtype:
        flat = rows.flatten(0, 1)
        return flat.T @ flat
    if rows.is_cuda:
        flat = rows.flatten(0, 1)
        return torch.mm(flat.T, flat, out_dtype=dtype)
    if rows.dtype == torch.float16:  # a sum of squares would overflow
        return _square(rows.to(dtype), dtype)
    # Rows by themselves: a CPU's product rounds its result, and so errors of many cancel.
    return (rows.transpose(1, 2) @ rows).sum(0, dtype=dtype)


def _is_in_triton(x: Tensor, values: Tensor) -> bool:
    """Whether our own kernels join a source and its gradients."""
    halves = x.dtype == values.dtype and x.dtype in (torch.float16, torch.bfloat16)
    return halves and triton_runs(x.device) and is_frame_by_frame(x)


def _exactly(x: Tensor) -> AbstractContextManager[None]:
    """Products in the type of their factors."""
    return torch.autocast(x.device.type, enabled=False)
