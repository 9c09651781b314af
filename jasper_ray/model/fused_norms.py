"""What a block does between two convolutions, by our own kernels for NVIDIA GPUs."""

from typing import NamedTuple

from torch import Tensor

from jasper_ray.model.batch_norm import BatchNorm
from jasper_ray.model.layout import DRAWS, Dropout
from jasper_ray.model.norm_triton import MAX_INPUTS, NormInput, is_frame_by_frame, norm_relu_dropout
from jasper_ray.model.padding import Padding
from jasper_ray.model.recompute import is_recomputing
from jasper_ray.model.residuals import Residual


class Draws(NamedTuple):
    """What dropout in our own kernels is drawn from."""

    seed: Tensor
    """`(1,)` int64 on the device."""
    stream: int
    """Of all that share the seed."""

    def stream_of(self, position: int) -> "Draws":
        """Another stream for each position in a block."""
        return Draws(self.seed, self.stream + 1 + position)


def are_fit(xs: list[Tensor]) -> bool:
    """Whether our kernels can take these inputs."""
    same = all(x.dtype == xs[0].dtype and is_frame_by_frame(x) for x in xs)
    return same and len(xs) <= MAX_INPUTS


def fused_norms(
    xs: list[Tensor],
    norms: list[BatchNorm],
    dropout: Dropout,
    padding: Padding | None,
    draws: Draws,
    added: Residual | None = None,
) -> Tensor:
    """What a block does between two convolutions, in Triton (`jasper_ray.model.norm_triton`); padding becomes zero."""
    counts = not is_recomputing()
    inputs = [
        NormInput(x, norm.weight, norm.bias, (norm.mean_sum, norm.var_sum) if counts else None)
        for x, norm in zip(xs, norms, strict=True)
    ]
    if added is not None:
        inputs[0] = inputs[0]._replace(bias=norms[0].bias + added.shift)
    return norm_relu_dropout(
        inputs,
        added=None if added is None else added.frames,
        is_padding=None if padding is None else padding.mask,
        num_dropped=min(round(dropout.p * DRAWS), DRAWS - 1),
        eps=norms[0].eps,
        excludes_padding=norms[0].excludes_padding,
        seed=draws.seed,
        stream=draws.stream,
    )
