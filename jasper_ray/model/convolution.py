"""The models' convolution: torch's `nn.Conv1d` with a choice of how it is computed.

The method changes how fast a layer is and how its sums are rounded, never its weights, their names or its shape; a
checkpoint written with one method is read with any other.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from jasper_ray.model.choice import LayerCase, choose
from jasper_ray.model.fourier import Tiling, WeightSpectrum, fourier_conv
from jasper_ray.model.layout import Dropout

Method = Literal["conv1d", "channels_last", "frequency", "auto"]
METHODS: tuple[Method, ...] = get_args(Method)
HOP_OF_KERNEL = 2
"""Output frames of a tile per tap on a CPU: fewer cost more products, more cost larger spectra of the weights."""
SAFE_DEPTHS = 64
"""Multiples of so many channels never hung, see `convolved_picture`."""


def gpu_tile(kernel: int) -> int:
    """Input frames of a tile on a GPU: a multiple of 16, above three times the kernel (H200, 2026-11-26)."""
    return -(-(3 * kernel + 10) // 16) * 16


class Convolution(nn.Conv1d):
    """`nn.Conv1d` whose `method` says how it is computed; `set_convolution_method` changes it.

    `conv1d`: torch's own, `(R, C, T)` in memory as it is written.
    `channels_last`: a two-dimensional convolution of one row; the channels of a frame lie together in memory. What
    comes in otherwise is copied, what goes out stays so.
    `frequency`: matrix products over spectra (`jasper_ray.model.fourier`), in the same layout; a layer that this
    cannot compute (a stride, groups, a bias, an even kernel, other than `same` padding), or that gains nothing from it
    (a kernel of one frame), is computed as `channels_last`.
    `auto`: one of these, for each layer and shape by a table of measurements (`jasper_ray.model.choice`).
    """

    method: Method = "conv1d"

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, padding, dilation, groups, bias)
        self.spectrum = WeightSpectrum()

    def forward(self, x: Tensor) -> Tensor:
        """`(R, C, T)` to `(R, C', T')`."""
        method = choose(self._case(x)) if self.method == "auto" else self.method
        if method == "conv1d":
            return super().forward(x)
        if method == "frequency" and self.has_frequency_method:
            return self._in_frequency_domain(x)
        return self._channels_last(x)

    def _case(self, x: Tensor) -> LayerCase:
        return LayerCase(
            channels=min(self.in_channels, self.out_channels) // self.groups,
            kernel=self.kernel_size[0],
            frames=x.shape[0] * x.shape[2] if self.training else None,
            device=x.device.type,
            dtype=dtype_of_products(x),
            has_frequency_method=self.has_frequency_method,
        )

    @property
    def has_frequency_method(self) -> bool:
        """Whether method `frequency` computes this layer in the frequency domain."""
        (kernel,), (dilation,) = self.kernel_size, self.dilation
        return (
            kernel > 1
            and kernel % 2 == 1
            and self.stride == (1,)
            and self.groups == 1
            and self.bias is None
            and self.padding == (kernel // 2 * dilation,)
        )

    def _in_frequency_domain(self, x: Tensor) -> Tensor:
        (kernel,), (dilation,) = self.kernel_size, self.dilation
        sizes = {"kernel": kernel, "dilation": dilation}
        if x.device.type == "cpu":
            tiling = Tiling.of(x.shape[2], **sizes, hop=HOP_OF_KERNEL * kernel)
        else:
            tiling = Tiling.for_tensor_cores(x.shape[2], **sizes, tile=gpu_tile(kernel))
        factors = self.spectrum(self.weight, tiling, dtype_of_products(x))
        return fourier_conv(x.transpose(1, 2), self.weight, factors, tiling).transpose(1, 2)

    def _channels_last(self, x: Tensor) -> Tensor:
        if self.kernel_size == self.stride == (1,) and self.groups == 1:
            return functional.linear(x.transpose(1, 2), self.weight.squeeze(2), self.bias).transpose(1, 2)
        assert isinstance(self.padding, tuple)
        return convolved_picture(
            x.unsqueeze(2).contiguous(memory_format=torch.channels_last),
            self.weight.unsqueeze(2).contiguous(memory_format=torch.channels_last),
            self.bias,
            (1, *self.stride),
            (0, *self.padding),
            (1, *self.dilation),
            self.groups,
        ).squeeze(2)


def convolved_picture(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """Torch's `conv2d` with channels last; where that may hang, in float32.

    On a CPU with avx512_bf16 oneDNN's kernel for one filter per channel (brdgmm) waits for ever for some numbers of
    channels, rows and threads: 32, 72 and 80 channels by 17 taps, not 64, 128, 256 and 512 (torch 2.13, 2 threads, 972
    sizes each; 256 and 512 by 3 to 12 threads, 2026-11-27).
    """
    is_safe = groups == 1 or groups % SAFE_DEPTHS == 0 or x.device.type != "cpu"
    if is_safe or (dtype := dtype_of_products(x)).itemsize > 2:
        return functional.conv2d(x, weight, bias, stride, padding, dilation, groups)
    with torch.autocast("cpu", enabled=False):
        bias = None if bias is None else bias.float()
        y = functional.conv2d(x.float(), weight.float(), bias, stride, padding, dilation, groups)
    return y.to(dtype)


def dtype_of_products(x: Tensor) -> torch.dtype:
    """What a layer computes in: that of autocast, where it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def set_convolution_method(model: nn.Module, method: Method) -> None:
    """Compute every convolution of a model in one way, and draw its dropout in a way that suits the layout.

    Raises:
        ValueError: There is no such method.
    """
    if method not in METHODS:
        raise ValueError(f"a convolution's method must be one of {', '.join(METHODS)}, got {method!r}")
    for module in model.modules():
        if isinstance(module, Convolution):
            module.method = method
        elif isinstance(module, Dropout):
            module.in_words = method != "conv1d"


def forget_spectra(model: nn.Module) -> None:
    """Tell every convolution of a model that its weights have changed, in case that torch has not noticed."""
    for module in model.modules():
        if isinstance(module, Convolution):
            module.spectrum.forget()
