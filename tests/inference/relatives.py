"""Small models of every kind that is folded: what their runners compute must be what the plain model computes."""

import torch

from jasper_ray.config.model import BlockConfig, ModelConfig
from jasper_ray.model.jasper import Jasper

NUM_MELS, NUM_LABELS = 16, 9


def _chain(residual: str, *, repeat: int = 2, separable: bool = False) -> tuple[BlockConfig, ...]:
    middle = [
        BlockConfig.model_validate(
            {"filters": width, "kernel": kernel, "repeat": repeat, "residual": residual, "separable": separable}
        )
        for width, kernel in ((64, 11), (64, 11), (72, 17), (96, 25))
    ]
    return (
        BlockConfig(filters=64, kernel=11, stride=2, separable=separable),
        *middle,
        BlockConfig(filters=80, kernel=29, dilation=2, separable=separable),
        BlockConfig(filters=96, kernel=1),
    )


RELATIVES: dict[str, ModelConfig] = {
    "dense": ModelConfig(preset=None, blocks=_chain("dense")),
    "dense, one sub-block": ModelConfig(preset=None, blocks=_chain("dense", repeat=1)),
    "plain": ModelConfig(preset=None, blocks=_chain("plain")),
    "no residual": ModelConfig(preset=None, blocks=_chain("none")),
    "separable": ModelConfig(preset=None, blocks=_chain("plain", separable=True)),
    "hardtanh": ModelConfig(preset=None, blocks=_chain("dense"), activation="hardtanh"),
    "selu": ModelConfig(preset=None, blocks=_chain("dense"), activation="selu"),
    "unmasked": ModelConfig(preset=None, blocks=_chain("dense"), masked=False),
    "two strides": ModelConfig(
        preset=None,
        blocks=(
            BlockConfig(filters=64, kernel=11, stride=2),
            BlockConfig(filters=64, kernel=13, residual="plain"),
            BlockConfig(filters=64, kernel=11, stride=2),
            BlockConfig(filters=64, kernel=17, repeat=2, residual="dense"),
        ),
    ),
    "two chains": ModelConfig(
        preset=None,
        blocks=(
            BlockConfig(filters=64, kernel=11, stride=2),
            *[BlockConfig(filters=64, kernel=11, residual="dense")] * 2,
            BlockConfig(filters=72, kernel=13, dilation=3, residual="none"),
            *[BlockConfig(filters=64, kernel=11, residual="dense")] * 2,
            BlockConfig(filters=64, kernel=11, residual="plain", dilation=2),
        ),
    ),
    "no stride": ModelConfig(preset=None, blocks=(BlockConfig(filters=64, kernel=13, repeat=2),)),
}


def randomised(config: ModelConfig, *, seed: int = 3) -> Jasper:
    """A model whose batch norms and biases matter, in evaluation mode."""
    torch.manual_seed(seed)
    model = Jasper(config, num_mels=NUM_MELS, num_labels=NUM_LABELS).eval()
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var") or (name.endswith("weight") and tensor.dim() == 1):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith(("running_mean", "bias")):
            tensor.normal_(std=0.3)
    return model
