"""Whether Triton works where we are, and what those share who launch our kernels."""

import functools
import importlib
import importlib.util
import logging

import torch

log = logging.getLogger(__name__)


def triton_is_installed(device: torch.device) -> bool:
    """Whether there is Triton and the device is one of its: an NVIDIA GPU."""
    return device.type == "cuda" and importlib.util.find_spec("triton") is not None


@functools.cache
def triton_runs(device: torch.device) -> bool:
    """Whether kernels in Triton can be had on a device. They need a C compiler and Python's headers too, with which
    Triton builds what launches them: it is tried once, and a failure is told.
    """
    if not triton_is_installed(device):
        return False
    try:
        kernels = importlib.import_module("jasper_ray.model.trial_kernels")
        x = torch.zeros(1, device=device)
        with torch.cuda.device_of(x):  # type: ignore[no-untyped-call] # Triton launches on the current device
            kernels.trial_kernel[(1,)](x)
    except Exception as error:  # whatever it lacks: torch can do the same, slower
        log.warning(
            "Triton does not work on %s, torch's slower kernels are taken (it needs gcc and Python's headers, "
            "apt-get install gcc python3-dev): %s",
            device,
            error,
        )
        return False
    return True


def power_of_two(least: int) -> int:
    """The smallest power of two that is not below `least`, a number from 1: Triton's blocks are such."""
    return 1 << (least - 1).bit_length()
