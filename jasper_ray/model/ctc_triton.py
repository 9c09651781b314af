"""CTC loss by kernels of our own: equal bits every time, lengths on the device, fit for a CUDA graph."""

import importlib
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from jasper_ray.model.ctc import ctc_losses
from jasper_ray.model.triton_trial import power_of_two

MAX_LABELS = 1023
"""Longest row of labels that the kernels take: with their blanks 2047 states, in 1024 lanes."""
MIN_LANES = 32
FRAMES_PER_PROGRAM = 32
MAX_IDS_PER_PROGRAM = 64


def ctc_losses_triton(
    log_probs: Tensor, lengths: Tensor, labels: Tensor, label_lengths: Tensor, *, blank: int
) -> Tensor:
    """Negative log-likelihood of each utterance's transcript, in nats: `ctc_losses` with all tensors on the GPU.

    The host neither waits nor reads, so it can be captured in a CUDA graph once it has run outside of one (Triton
    compiles a kernel when it is first launched). Lengths beyond the tensors count as their sizes.

    The gradient is the derivative with respect to `log_probs`, minus the posterior of each label. That of torch's
    `ctc_loss` is exp(log_probs) minus the posterior, as if a log-softmax had come before; behind a log-softmax both
    give the same gradient of its inputs. An infinite loss has NaN in all its frames, as torch's has, so that nobody
    learns from it: a training step whose loss is infinite is skipped as a whole (`training.step`).

    Args:
        log_probs: `(B, T, V)`, computed in fp32.
        lengths: `(B,)` valid encoder frames, any integers.
        labels: `(B, U)` label ids, padded with anything. With U above 1023 the lengths are read by the host and torch
            computes the losses.
        label_lengths: `(B,)` valid labels.
        blank: Index of the CTC blank in `V`.

    Returns:
        `(B,)` losses; infinite where the transcript needs more frames than there are (see `required_frames`), or has
        an id outside of `V`.

    Source: Graves et al. 2006.
    """
    if labels.shape[1] > MAX_LABELS:
        return ctc_losses(log_probs, lengths.cpu(), labels, label_lengths.cpu(), blank=blank)
    given = (tensor.contiguous() for tensor in (log_probs.float(), lengths, labels, label_lengths))
    return _CtcLoss.apply(*given, blank)  # type: ignore[no-any-return, no-untyped-call]


class _CtcLoss(torch.autograd.Function):
    """Losses and, at once, their gradient: it is tens of times smaller than what it is made from."""

    @staticmethod
    def forward(
        ctx: Any, log_probs: Tensor, lengths: Tensor, labels: Tensor, label_lengths: Tensor, blank: int
    ) -> Tensor:
        losses, gradient = _launch(log_probs, lengths, labels, label_lengths, blank, ctx.needs_input_grad[0])
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_losses: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad_losses[:, None, None], None, None, None, None


def _launch(
    log_probs: Tensor, lengths: Tensor, labels: Tensor, label_lengths: Tensor, blank: int, with_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Losses `(B,)`; their gradient `(B, T, V)`, empty where it is not wanted."""
    kernels = importlib.import_module("jasper_ray.model.ctc_kernels")  # it needs Triton, which few machines have
    (rows, frames, vocabulary), max_labels = log_probs.shape, labels.shape[1]
    losses = log_probs.new_empty(rows)
    scores = log_probs.new_empty((rows, frames, 2, max_labels + 1) if with_gradient else 0)
    gradient = torch.empty_like(log_probs) if with_gradient else log_probs.new_empty(0)
    utterances = (lengths, labels, label_lengths)
    sizes = (frames, max_labels, vocabulary, blank)
    lanes = max(MIN_LANES, power_of_two(max_labels + 1))
    shape = {"LANES": lanes, "num_warps": min(8, lanes // MIN_LANES)}
    with torch.cuda.device_of(log_probs):  # type: ignore[no-untyped-call] # Triton launches on the current device
        kernels.forward_kernel[(rows,)](log_probs, *utterances, losses, scores, *sizes, KEEP=with_gradient, **shape)
        if with_gradient:
            kernels.backward_kernel[(rows,)](log_probs, *utterances, scores, *sizes, **shape)
            ids = min(MAX_IDS_PER_PROGRAM, power_of_two(vocabulary))
            grid = (rows, -(-frames // FRAMES_PER_PROGRAM), -(-vocabulary // ids))
            kernels.gradient_kernel[grid](*utterances, scores, gradient, *sizes, FRAMES=FRAMES_PER_PROGRAM, IDS=ids)
    return losses, gradient
