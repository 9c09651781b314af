"""The shape of a Jasper model: a list of blocks, or the name of one of the presets below.

Source: Li et al. 2019, "Jasper: An End-to-End Convolutional Neural Acoustic Model", and Kriman et al. 2020, "QuartzNet:
Deep Automatic Speech Recognition with 1D Time-Channel Separable Convolutions"; widths and dropouts as NVIDIA's.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from jasper_ray.config.strict import StrictModel


class BlockConfig(StrictModel):
    """`repeat` sub-blocks of convolution, batch norm, activation and dropout, and their residual branches."""

    filters: int = Field(ge=1)
    """Output channels."""
    kernel: int = Field(ge=1)
    """Kernel width in frames; odd, so that the length is kept."""
    repeat: int = Field(1, ge=1)
    """Sub-blocks."""
    stride: int = Field(1, ge=1)
    """Stride of the sub-blocks."""
    dilation: int = Field(1, ge=1)
    """Dilation of the kernels."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout after each activation."""
    residual: Literal["none", "plain", "dense"] = "none"
    """`plain` adds the block's input; `dense` adds the outputs of all blocks since the last block without `dense`."""
    separable: bool = False
    """Convolve every channel by itself, then mix channels frame by frame, as QuartzNet does."""

    @model_validator(mode="after")
    def _length_is_kept(self) -> Self:
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {self.kernel}: an even one shifts and lengthens the output")
        if self.stride > 1 and self.dilation > 1:
            raise ValueError(f"stride={self.stride} and dilation={self.dilation} cannot both be above 1")
        if self.stride > 1 and (self.residual != "none" or self.repeat > 1):
            raise ValueError(f"stride={self.stride} needs repeat=1 and residual=none: residuals must keep the length")
        return self


def jasper_blocks(
    repeat: int,
    middle: tuple[tuple[int, int, float], ...],
    *,
    copies: int = 2,
    scale: float = 1.0,
    residual: Literal["plain", "dense"] = "dense",
) -> tuple[BlockConfig, ...]:
    """Jasper's prologue, `copies` of each middle block (filters, kernel, dropout) and its two closing blocks."""

    def width(filters: int) -> int:
        return max(8, round(filters * scale))

    blocks = [BlockConfig(filters=width(256), kernel=11, stride=2, dropout=0.2)]
    for filters, kernel, dropout in middle:
        block = BlockConfig(filters=width(filters), kernel=kernel, repeat=repeat, dropout=dropout, residual=residual)
        blocks += [block] * copies
    blocks.append(BlockConfig(filters=width(896), kernel=29, dilation=2, dropout=0.4))
    blocks.append(BlockConfig(filters=width(1024), kernel=1, dropout=0.4))
    return tuple(blocks)


def quartznet_blocks(repeat: int, *, copies: int) -> tuple[BlockConfig, ...]:
    """QuartzNet's separable prologue, `copies` of each of its five middle blocks and its two closing blocks."""
    blocks = [BlockConfig(filters=256, kernel=33, stride=2, separable=True)]
    for filters, kernel in ((256, 33), (256, 39), (512, 51), (512, 63), (512, 75)):
        block = BlockConfig(filters=filters, kernel=kernel, repeat=repeat, residual="plain", separable=True)
        blocks += [block] * copies
    blocks.append(BlockConfig(filters=512, kernel=87, dilation=2, separable=True))
    blocks.append(BlockConfig(filters=1024, kernel=1))
    return tuple(blocks)


JASPER_MIDDLE = ((256, 11, 0.2), (384, 13, 0.2), (512, 17, 0.2), (640, 21, 0.3), (768, 25, 0.3))

Preset = Literal["jasper10x5dr", "jasper5x3", "jasper5x1dr", "quartznet15x5", "quartznet10x5", "quartznet5x5"]

PRESETS: dict[Preset, tuple[BlockConfig, ...]] = {
    "jasper10x5dr": jasper_blocks(5, JASPER_MIDDLE),
    "jasper5x3": jasper_blocks(3, JASPER_MIDDLE, copies=1),
    "jasper5x1dr": jasper_blocks(1, JASPER_MIDDLE, copies=1),
    "quartznet15x5": quartznet_blocks(5, copies=3),
    "quartznet10x5": quartznet_blocks(5, copies=2),
    "quartznet5x5": quartznet_blocks(5, copies=1),
}


class ModelConfig(StrictModel):
    """The encoder; its input width comes from `features.num_mels`, its output from `text.alphabet`."""

    preset: Preset | None = "jasper10x5dr"
    """A named list of blocks; null takes `blocks`."""
    blocks: tuple[BlockConfig, ...] = ()
    """The blocks from input to output, when `preset` is null."""
    masked: bool = True
    """Zero the padding before every convolution, so that it cannot change a transcript."""
    batch_norm_padding: Literal["include", "exclude"] = "include"
    """Whether padded frames count in the statistics of training: NVIDIA's do; packed rows need `exclude`."""
    activation: Literal["relu", "hardtanh", "selu"] = "relu"
    """Non-linearity."""
    init: Literal["xavier_uniform", "xavier_normal", "kaiming_uniform", "kaiming_normal"] = "xavier_uniform"
    """Initial distribution of convolution weights."""

    @property
    def resolved_blocks(self) -> tuple[BlockConfig, ...]:
        """The blocks, whether they were named or listed."""
        return PRESETS[self.preset] if self.preset else self.blocks

    @property
    def is_separable(self) -> bool:
        """Whether any block is: then NVIDIA names the layers of all as in QuartzNet."""
        return any(block.separable for block in self.resolved_blocks)

    @property
    def total_stride(self) -> int:
        """Feature frames per encoder frame."""
        product = 1
        for block in self.resolved_blocks:
            product *= block.stride
        return product

    @property
    def packing_gap_frames(self) -> int:
        """Fewest feature frames between two utterances of a row: the widest reach of a convolution to either side."""
        reach, stride = 0, 1
        for block in self.resolved_blocks:
            reach = max(reach, (block.kernel // 2) * block.dilation * stride)
            stride *= block.stride
        return reach

    @property
    def context_frames(self) -> int:
        """Feature frames to either side that an encoder frame hears: the reach of all convolutions one after another.

        8.8 s in Jasper 10x5.
        """
        reach, stride = 0, 1
        for block in self.resolved_blocks:
            reach += block.repeat * (block.kernel // 2) * block.dilation * stride
            stride *= block.stride
        return reach

    @model_validator(mode="after")
    def _excluding_needs_masks(self) -> Self:
        if self.batch_norm_padding == "exclude" and not self.masked:
            raise ValueError("batch_norm_padding=exclude needs masked=true: only masks know which frames are padding")
        return self

    @model_validator(mode="after")
    def _blocks_are_given_once(self) -> Self:
        if (self.preset is None) == (not self.blocks):
            raise ValueError(
                f"give either preset or blocks, got preset={self.preset!r} and {len(self.blocks)} blocks: "
                "set model.preset=null to list blocks"
            )
        return self
