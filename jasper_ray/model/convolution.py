"""The models' convolution: torch's `nn.Conv1d` with a choice of how it is computed.

The method changes how fast a layer is and how its sums are rounded, never its weights, their names or its shape; a
checkpoint written with one method is read with any other.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

Method = Literal["conv1d", "channels_last"]
METHODS: tuple[Method, ...] = get_args(Method)


class Convolution(nn.Conv1d):
    """`nn.Conv1d` whose `method` says how it is computed; `set_convolution_method` changes it.

    `conv1d`: torch's own, `(R, C, T)` in memory as it is written.
    `channels_last`: a two-dimensional convolution of one row; the channels of a frame lie together in memory. What
    comes in otherwise is copied, what goes out stays so.
    """

    method: Method = "conv1d"

    def forward(self, x: Tensor) -> Tensor:
        """`(R, C, T)` to `(R, C', T')`."""
        if self.method == "channels_last":
            return self._channels_last(x)
        return super().forward(x)

    def _channels_last(self, x: Tensor) -> Tensor:
        assert isinstance(self.padding, tuple)
        return functional.conv2d(
            x.unsqueeze(2).contiguous(memory_format=torch.channels_last),
            self.weight.unsqueeze(2).contiguous(memory_format=torch.channels_last),
            self.bias,
            stride=(1, *self.stride),
            padding=(0, *self.padding),
            dilation=(1, *self.dilation),
            groups=self.groups,
        ).squeeze(2)


def set_convolution_method(model: nn.Module, method: Method) -> None:
    """Compute every convolution of a model in one way.

    Raises:
        ValueError: There is no such method.
    """
    if method not in METHODS:
        raise ValueError(f"a convolution's method must be one of {', '.join(METHODS)}, got {method!r}")
    for module in model.modules():
        if isinstance(module, Convolution):
            module.method = method
