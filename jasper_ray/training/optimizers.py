"""The optimizer of a config: its parameter groups, and how it goes on from a saved state."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from jasper_ray.config.schema import OptimizerConfig
from jasper_ray.errors import ResumeError
from jasper_ray.training.novograd import Novograd

LR_FACTOR = "lr_factor"
"""Key of a parameter group: its learning rate is this times the schedule's."""


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """The optimizer that a config names; all tensors of a group are updated in a few kernel launches."""
    groups, betas = parameter_groups(model, config), (config.beta1, config.beta2)
    if config.name == "novograd":
        return Novograd(groups, lr=config.lr, betas=betas, eps=config.eps, weight_decay=config.weight_decay)
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=betas, eps=config.eps, weight_decay=config.weight_decay, fused=True
    )


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Parameters by learning rate and weight decay, in the model's order; one group where the config makes no
    difference.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        factor = config.decoder_lr_factor if name.startswith("decoder.") else config.encoder_lr_factor
        decays = config.decay_biases_and_norms or parameter.dim() > 1
        groups.setdefault((factor, config.weight_decay if decays else 0.0), []).append(parameter)
    return [
        {"params": parameters, LR_FACTOR: factor, "weight_decay": weight_decay}
        for (factor, weight_decay), parameters in groups.items()
    ]


def restore_optimizer(optimizer: Optimizer, saved: dict[str, Any], *, source: str) -> None:
    """Go on from a saved state with this run's settings: momenta are taken over, learning rates and decay are not.

    Raises:
        ResumeError: It was saved with other parameter groups, so that its numbers belong to other tensors.
    """
    sizes, ours = (
        [len(group["params"]) for group in groups] for groups in (saved["param_groups"], optimizer.param_groups)
    )
    if sizes != ours:
        raise ResumeError(
            f"{source} has parameter groups of {sizes} tensors, this run of {ours}: optimizer.decay_biases_and_norms, "
            "optimizer.encoder_lr_factor or optimizer.decoder_lr_factor differ. Use the same, or start a new run from "
            "these weights with init_from=<its bundle> and a new output"
        )
    groups = [
        {**theirs, **{key: value for key, value in own.items() if key != "params"}}
        for theirs, own in zip(saved["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({**saved, "param_groups": groups})
