"""Batch norm whose running statistics do not depend on how many workers share a step."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from jasper_ray.model.layout import as_picture, like
from jasper_ray.model.padding import Padding, masked_batch_norm
from jasper_ray.model.recompute import is_recomputing

EPS = 1e-3
MOMENTUM = 0.1


class BatchNorm(nn.BatchNorm1d):
    """Batch norm whose running statistics change once per optimizer step instead of once per forward pass.

    In training it normalises with the statistics of the micro-batch at hand, as usual, and adds them to sums.
    `jasper_ray.training.batch_norm` averages these sums over every micro-batch of the step on every worker and only
    then moves the running statistics: so the result does not depend on how many workers shared the step.

    Args:
        num_features: Channels.
        excludes_padding: Whether only frames of utterances count in training; in NVIDIA's model all do.
    """

    def __init__(self, num_features: int, *, excludes_padding: bool = False) -> None:
        super().__init__(num_features, eps=EPS, momentum=MOMENTUM)
        self.excludes_padding = excludes_padding
        self.register_buffer("mean_sum", torch.zeros(num_features), persistent=False)
        self.register_buffer("var_sum", torch.zeros(num_features), persistent=False)
        self.mean_sum: Tensor
        self.var_sum: Tensor

    def forward(self, x: Tensor, padding: Padding | None = None, shift: Tensor | None = None) -> Tensor:
        """Normalise `(R, C, T)` per channel; a layer that excludes padding is told which frames are.

        In training a `shift` `(C,)` is added to the result.
        """
        if not self.training:
            assert shift is None
            return super().forward(x) if x.is_contiguous() else self._with_running_statistics(x)
        bias = self.bias if shift is None else self.bias + shift
        if self.excludes_padding and padding is not None:
            y, mean, var = masked_batch_norm(x, self.weight, bias, padding, eps=self.eps)
            self._collect(mean, var)
            return y
        # With momentum 1 the "running" arguments come back as this micro-batch's mean and unbiased variance.
        mean, var = torch.zeros_like(self.mean_sum), torch.ones_like(self.var_sum)
        y = functional.batch_norm(
            as_picture(x), mean, var, self.weight, bias, training=True, momentum=1.0, eps=self.eps
        )
        self._collect(mean, var)
        return like(y, x)

    def _collect(self, mean: Tensor, var: Tensor) -> None:
        if not is_recomputing():
            self.mean_sum += mean
            self.var_sum += var

    def _with_running_statistics(self, x: Tensor) -> Tensor:
        y = functional.batch_norm(
            as_picture(x), self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
        )
        return like(y, x)
