"""How much arithmetic a device does."""

import time

import torch


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
