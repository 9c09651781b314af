"""Where a step's time goes: convolutions or not, and on a GPU how long it has nothing to do."""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

PRODUCTS = (
    "conv", "aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm", "aten::matmul", "aten::linear", "Convolution",
    "mkldnn_linear",
)  # fmt: skip
"""Operators that are a convolution, or the products that one is computed by."""
PRODUCT_KERNELS = ("xmma", "cutlass", "nvjet", "gemm", "conv", "splitk", "lay_out_kernel", "take_back_kernel")
"""Parts of the names of the kernels that compute them on a GPU, where a graph has no operators: those of cuDNN and
cuBLAS, and ours that bring frames into the tiles of a convolution and back, as cuDNN's own do."""
MARK = re.compile(r"[\w.]+#[\w.]+")
"""What names a step of the profiler, or of an optimizer; kernels whose source is a lambda have a number sign too."""
NO_CONVOLUTION = ("ctc", "Backward0", "ConvolutionBackward")  # nodes of autograd hold operators, and do nothing


def step_shares(run: Callable[[int], object], *, steps: int, device: torch.device) -> dict[str, Any]:
    """Profile steps.

    Args:
        run: Makes the step of a number.
        steps: How many.
        device: Where steps are computed.

    Returns:
        `outside_convolutions`, a share of the time that operators take on the device; on a GPU `device_idle`, the share
        of these steps in which no kernel runs because the host has not come to it, or waits (the profiler slows the
        host); null on a CPU.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA] if on_gpu else [ProfilerActivity.CPU]
    with profile(activities=activities) as profiled:
        for number in range(steps):
            run(number)
        if on_gpu:
            torch.cuda.synchronize(device)
    events = profiled.key_averages()
    if on_gpu:
        times_us = {event.key: event.self_device_time_total for event in events if is_kernel(event)}
    else:
        times_us = {event.key: event.self_cpu_time_total for event in events}
    belongs = is_product_kernel if on_gpu else is_product
    total_us = sum(times_us.values())
    products_us = sum(time_us for name, time_us in times_us.items() if belongs(name))
    ranges = [(event.time_range.start, event.time_range.end) for event in profiled.events() or () if is_kernel(event)]
    return {
        "outside_convolutions": 1 - products_us / total_us if total_us else None,
        "device_idle": idle_share(ranges),
    }


def idle_share(ranges: list[tuple[float, float]]) -> float | None:
    """Share of the time from the first start to the last end in which nothing runs; none where nothing does."""
    if not ranges:
        return None
    busy, until = 0.0, float("-inf")
    for start, end in sorted(ranges):
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return 1 - busy / (until - min(start for start, _ in ranges))


def is_kernel(event: Any) -> bool:
    """Whether an event is work of the GPU, and no mark of the host's on its time line."""
    return event.device_type == DeviceType.CUDA and not event.is_user_annotation and not MARK.fullmatch(event.key)


def is_product_kernel(name: str) -> bool:
    """Whether a GPU's kernel computes a convolution, or a product that one is computed by."""
    return any(word in name.lower() for word in PRODUCT_KERNELS)


def is_product(name: str) -> bool:
    """Whether an operator's own time is that of convolutions."""
    return any(word in name for word in PRODUCTS) and not any(word in name for word in NO_CONVOLUTION)
