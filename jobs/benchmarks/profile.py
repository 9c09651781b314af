"""Where a step's time goes: convolutions or not, and on a GPU how long it has nothing to do."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

PRODUCTS = (
    "conv", "aten::mm", "aten::bmm", "aten::addmm", "aten::baddbmm", "aten::matmul", "aten::linear", "Convolution",
    "mkldnn_linear",
)  # fmt: skip
"""Operators that are a convolution, or the products that one is computed by."""
PRODUCT_KERNELS = (
    "xmma", "cutlass", "nvjet", "gemm", "conv", "splitk",
    "lay_out_kernel", "take_back_kernel", "to_factors_kernel", "from_factors_kernel",
)  # fmt: skip
"""Parts of the names of the kernels that compute them on a GPU, where a graph has no operators: those of cuDNN and
cuBLAS, and ours that bring frames into the tiles of a convolution and back, as cuDNN's own do, and its weights."""
NUM_LISTED = 25
NAME = 100
"""Letters of a kernel's name that are told; those of templates have hundreds."""
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
        `outside_convolutions`, a share of the time that operators take on the device; `kernels`, those that take most
        of it. On a GPU `device_idle`, the share of these steps in which no kernel runs because the host has not come to
        it, or waits (the profiler slows the host), and `gaps`, between which kernels that is; null and none on a CPU.
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
        events = [event for event in events if is_kernel(event)]
        times_us = {event.key: event.self_device_time_total for event in events}
    else:
        times_us = {event.key: event.self_cpu_time_total for event in events}
    counts = {event.key: event.count for event in events}
    longest = sorted(times_us, key=times_us.__getitem__, reverse=True)[:NUM_LISTED]
    belongs = is_product_kernel if on_gpu else is_product
    total_us = sum(times_us.values())
    products_us = sum(time_us for name, time_us in times_us.items() if belongs(name))
    spans = [
        Span(event.time_range.start, event.time_range.end, event.name)
        for event in profiled.events() or ()
        if is_kernel(event)
    ]
    return {
        "outside_convolutions": 1 - products_us / total_us if total_us else None,
        "device_idle": idle_share([(span.start_us, span.end_us) for span in spans]),
        "kernels": [
            {"name": name[:NAME], "ms": times_us[name] / 1e3 / steps, "calls": counts[name] / steps} for name in longest
        ],
        "gaps": [
            {"after": after[:NAME], "before": before[:NAME], "ms": gap_us / 1e3 / steps, "count": count / steps}
            for (after, before), (gap_us, count) in longest_gaps(spans)
        ],
    }


class Span(NamedTuple):
    """A kernel's run."""

    start_us: float
    end_us: float
    name: str


def longest_gaps(spans: list[Span]) -> list[tuple[tuple[str, str], tuple[float, int]]]:
    """Of what kernel to what kernel nothing runs the longest: microseconds in all, and how often."""
    found: dict[tuple[str, str], tuple[float, int]] = {}
    last: Span | None = None
    for span in sorted(spans):
        if last is not None and span.start_us > last.end_us:
            total_us, count = found.get((last.name, span.name), (0.0, 0))
            found[last.name, span.name] = (total_us + span.start_us - last.end_us, count + 1)
        if last is None or span.end_us > last.end_us:
            last = span
    return sorted(found.items(), key=lambda item: item[1], reverse=True)[:NUM_LISTED]


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
