"""What GPUs promise: dense arithmetic per second by their data sheets, for the share of it that a run uses."""

PEAKS_TFLOPS: dict[str, dict[str, float]] = {
    "B200": {"bf16": 2250, "fp16": 2250, "tf32": 1125, "fp32": 75},
    "H200": {"bf16": 989, "fp16": 989, "tf32": 494, "fp32": 67},
    "H100": {"bf16": 989, "fp16": 989, "tf32": 494, "fp32": 67},
    "A100": {"bf16": 312, "fp16": 312, "tf32": 156, "fp32": 19.5},
    "L40S": {"bf16": 362, "fp16": 362, "tf32": 183, "fp32": 91.6},
    "A10": {"bf16": 125, "fp16": 125, "tf32": 62.5, "fp32": 31.2},
    "L4": {"bf16": 121, "fp16": 121, "tf32": 60, "fp32": 30.3},
    "V100": {"fp16": 125, "fp32": 15.7},
    "T4": {"fp16": 65, "fp32": 8.1},
}


def peak_flops_per_s(device_name: str, precision: str) -> float | None:
    """Of a device as `torch.cuda.get_device_name` calls it; none for one that is not listed.

    Args:
        device_name: For instance `NVIDIA H200`.
        precision: bf16, fp16, tf32 or fp32.
    """
    words = device_name.replace("-", " ").split()
    for name, peaks in PEAKS_TFLOPS.items():
        if name in words and precision in peaks:
            return peaks[precision] * 1e12
    return None
