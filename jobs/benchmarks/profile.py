"""Where a step's time goes: convolutions or not, and on a GPU how long it has nothing to do."""

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

PRODUCTS = (
    "conv", "aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm", "aten::matmul", "aten::linear", "Convolution",
    "mkldnn_linear",
)  # fmt: skip
"""Operators that are a convolution, or the products that one is computed by."""
NO_CONVOLUTION = ("ctc", "ConvolutionBackward")  # the second holds other operators, it does nothing itself


def step_shares(run: Callable[[int], object], *, steps: int, step_s: float, device: torch.device) -> dict[str, Any]:
    """Profile steps.

    Args:
        run: Makes the step of a number.
        steps: How many.
        step_s: Seconds of a step without the profiler, which slows the host.
        device: Where steps are computed.

    Returns:
        `outside_convolutions`, a share of the time that operators take on the device; on a GPU `device_idle`, the share
        of a step in which no kernel runs because the host has not come to it, or waits; null on a CPU.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    with profile(activities=activities) as profiled:
        for number in range(steps):
            run(number)
        if on_gpu:
            torch.cuda.synchronize(device)
    times_us = {
        event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in profiled.key_averages()
        if event.key.startswith("aten::") or not on_gpu
    }
    total_us = sum(times_us.values())
    products_us = sum(time_us for name, time_us in times_us.items() if is_product(name))
    busy = total_us / 1e6 / steps / step_s
    return {
        "outside_convolutions": 1 - products_us / total_us if total_us else None,
        "device_idle": max(0.0, 1 - busy) if on_gpu else None,
    }


def is_product(name: str) -> bool:
    """Whether an operator's own time is that of convolutions."""
    return any(word in name for word in PRODUCTS) and not any(word in name for word in NO_CONVOLUTION)
