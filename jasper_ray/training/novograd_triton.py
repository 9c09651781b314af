"""Novograd's update by kernels of our own: three launches for all tensors of a group."""

import importlib
from typing import NamedTuple

import torch
from torch import Tensor

from jasper_ray.training import chunks
from jasper_ray.training.chunks import ChunkTables, are_alike


class Tensors(NamedTuple):
    """What belongs to a parameter; `square` has no dimensions."""

    parameter: Tensor
    grad: Tensor
    momentum: Tensor
    square: Tensor


def are_fit(tensors: Tensors, device: torch.device) -> bool:
    """Whether the kernels can update a parameter on that device."""
    square = tensors.square
    return square.dtype == torch.float32 and square.device == device and are_alike(tensors[:3], device)


class GroupUpdate:
    """Updates a group of tensors, step after step."""

    def __init__(self) -> None:
        self._tables = ChunkTables()
        self._partials = self._scales = torch.empty(0)

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
        if self._tables.set(tensors):
            device = tensors[0].parameter.device
            self._partials = torch.empty(self._tables.num_programs, device=device)
            self._scales = torch.empty(len(tensors), device=device)
        kernels = importlib.import_module("jasper_ray.training.novograd_kernels")  # it needs Triton
        tables, shape = self._tables.arguments, {"CHUNK": chunks.CHUNK, "BLOCK": chunks.BLOCK}
        (beta1, beta2), programs = betas, (self._tables.num_programs,)
        sums, second = (self._partials, self._scales), (found_inf, float(beta2), float(1 - beta2), float(eps))
        update = (found_inf, float(lr), float(beta1), float(weight_decay))
        # Triton launches on the current device.
        with torch.cuda.device_of(tensors[0].parameter):  # type: ignore[no-untyped-call]
            kernels.squares_kernel[programs](*tables, self._partials, **shape)
            kernels.scales_kernel[(len(tensors),)](
                self._tables.pointers, self._tables.first, *sums, *second, BLOCK=chunks.BLOCK
            )
            kernels.update_kernel[programs](*tables, self._scales, *update, **shape)
        # As torch's own operations do: whatever is kept for a version of the weights is out of date.
        torch.autograd.graph.increment_version(
            [changed for one in tensors for changed in (one.parameter, one.momentum, one.square)]
        )
