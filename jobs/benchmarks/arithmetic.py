"""How much arithmetic a model is, and how much a device does."""

import time

import torch

from jasper_ray.config.model import ModelConfig
from jasper_ray.model.jasper import branch_inputs


def forward_flops(model: ModelConfig, *, num_mels: int, num_labels: int, seconds: float, hop_s: float = 0.01) -> float:
    """Multiplications and additions of an utterance's forward pass by direct convolution, from the list of blocks.

    Batch norm, activations and masks are left out, and so is what another algorithm than the direct sum saves.
    """
    frames, flops, history = seconds / hop_s, 0.0, [num_mels]
    for block in model.resolved_blocks:
        inputs, branches = history[-1], sum(branch_inputs(block, history))
        for _ in range(block.repeat):
            frames /= block.stride
            taps = inputs * block.kernel * block.filters
            if block.separable:
                taps = inputs * block.kernel + inputs * block.filters
            flops += 2 * frames * taps
            inputs = block.filters
        flops += 2 * frames * branches * block.filters
        history = [*history, block.filters] if block.residual == "dense" else [block.filters]
    return flops + 2 * frames * history[-1] * num_labels


def step_flops(model: ModelConfig, *, num_mels: int, num_labels: int, seconds: float) -> float:
    """Of an utterance in training: forward, gradient of the inputs, gradient of the weights."""
    return 3 * forward_flops(model, num_mels=num_mels, num_labels=num_labels, seconds=seconds)


def products_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """Multiplications and additions per second of the device in square matrix products: the best of ten."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best_s = float("inf")
    for _ in range(10):
        started_s = time.perf_counter()
        product = left @ right
        float(product[0, 0])  # waits for the device
        best_s = min(best_s, time.perf_counter() - started_s)
    return 2 * size**3 / best_s
