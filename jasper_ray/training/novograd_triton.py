"""Novograd's update by kernels of our own: three launches for all tensors of a group."""

import functools
import importlib
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 16384
"""Numbers that a program works on: 20,000 programs for Jasper 10x5."""
BLOCK = 1024


class Tensors(NamedTuple):
    """What belongs to a parameter; `square` has no dimensions."""

    parameter: Tensor
    grad: Tensor
    momentum: Tensor
    square: Tensor


def are_fit(tensors: Tensors, device: torch.device) -> bool:
    """Whether the kernels can update a parameter on that device: all is fp32 there, and parameter, gradient and
    momentum have their numbers in one order in memory, without gaps.
    """
    if any(one.dtype != torch.float32 or one.device != device or one.layout != torch.strided for one in tensors):
        return False
    if tensors.parameter.numel() == 0:
        return False
    parameter, grad, momentum = tensors[:3]
    # Nearly always so, and quickly said: there are hundreds of tensors a step.
    if parameter.is_contiguous() and grad.is_contiguous() and momentum.is_contiguous():
        return True
    first, *others = (_steps(one.shape, one.stride()) for one in (parameter, grad, momentum))
    return first is not None and all(steps == first for steps in others)


@functools.cache
def _steps(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[tuple[int, int], ...] | None:
    """Size and stride of each dimension in which there is more than one number; none where memory has gaps between."""
    steps = tuple((size, stride) for size, stride in zip(shape, strides, strict=True) if size > 1)
    expected = 1
    for size, stride in sorted(steps, key=lambda step: step[1]):
        if stride != expected:
            return None
        expected *= size
    return steps


class GroupUpdate:
    """Updates a group of tensors, step after step; where they lie is sent to the device only when it has changed."""

    def __init__(self) -> None:
        self._sizes: tuple[int, ...] = ()
        self._addresses: tuple[int, ...] = ()
        self._pointers = self._owners = self._first = self._numbers = self._partials = self._scales = torch.empty(0)

    def run(
        self,
        tensors: list[Tensors],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        found_inf: Tensor | None,
    ) -> None:
        """Update parameters, momenta and squares in place; gradients are left as they are.

        Args:
            tensors: Those of at least one parameter, fit for it (`are_fit`), all on one device.
            lr, betas, eps, weight_decay: As `Novograd` has them.
            found_inf: A scalar on the device; where it is 1 nothing changes.
        """
        device = tensors[0].parameter.device
        sizes = tuple(one.parameter.numel() for one in tensors)
        if (sizes, device) != (self._sizes, self._pointers.device):
            self._lay_out(sizes, device)
        addresses = tuple(tensor.data_ptr() for one in tensors for tensor in one)
        if addresses != self._addresses:
            self._pointers, self._addresses = _on(device, addresses, torch.int64), addresses
        kernels = importlib.import_module("jasper_ray.training.novograd_kernels")  # it needs Triton
        tables, shape = (self._pointers, self._owners, self._first, self._numbers), {"CHUNK": CHUNK, "BLOCK": BLOCK}
        (beta1, beta2), chunks = betas, (len(self._owners),)
        sums, second = (self._partials, self._scales), (found_inf, float(beta2), float(1 - beta2), float(eps))
        update = (found_inf, float(lr), float(beta1), float(weight_decay))
        # Triton launches on the current device.
        with torch.cuda.device_of(tensors[0].parameter):  # type: ignore[no-untyped-call]
            kernels.squares_kernel[chunks](*tables, self._partials, **shape)
            kernels.scales_kernel[(len(sizes),)](self._pointers, self._first, *sums, *second, BLOCK=BLOCK)
            kernels.update_kernel[chunks](*tables, self._scales, *update, **shape)
        # As torch's own operations do: whatever is kept for a version of the weights is out of date.
        torch.autograd.graph.increment_version(
            [changed for one in tensors for changed in (one.parameter, one.momentum, one.square)]
        )

    def _lay_out(self, sizes: tuple[int, ...], device: torch.device) -> None:
        """Which program works on what, and room for the sums."""
        chunks = [-(-size // CHUNK) for size in sizes]
        owners = [tensor for tensor, count in enumerate(chunks) for _ in range(count)]
        self._owners = _on(device, owners, torch.int32)
        self._first = _on(device, [0, *accumulate(chunks)], torch.int32)
        self._numbers = _on(device, sizes, torch.int64)
        self._partials = torch.empty(len(owners), device=device)
        self._scales = torch.empty(len(sizes), device=device)
        self._sizes, self._addresses = sizes, ()


def _on(device: torch.device, values: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A tensor on the device, without waiting for it: pinned memory is not used again before it has been read."""
    return torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda").to(device, non_blocking=True)
