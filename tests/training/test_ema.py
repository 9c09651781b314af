import subprocess
from collections.abc import Callable

import pytest
import torch

from jasper_ray.model.batch_norm import BatchNorm
from jasper_ray.model.triton_trial import triton_runs
from jasper_ray.training import chunks
from jasper_ray.training.ema import WeightAverage

CHUNK, BLOCK = 512, 64  # of the interpreter, which is slow


def test_average_moves_by_one_minus_decay_and_takes_counters_as_they_are() -> None:
    layer = BatchNorm(2)
    average = WeightAverage(layer, decay=0.9)
    with torch.no_grad():
        layer.weight += 1.0
        layer.running_mean += 2.0
        layer.num_batches_tracked += 7
    average.update(layer)
    torch.testing.assert_close(average.weights["weight"], torch.full((2,), 1.1))
    torch.testing.assert_close(average.weights["running_mean"], torch.full((2,), 0.2))
    assert int(average.weights["num_batches_tracked"]) == 7


def test_average_does_not_share_memory_with_the_model() -> None:
    layer = BatchNorm(2)
    average = WeightAverage(layer, decay=0.9)
    with torch.no_grad():
        layer.weight.fill_(5.0)
    assert average.weights["weight"].tolist() == [1.0, 1.0]


def test_a_model_without_counters_is_averaged_too() -> None:
    layer = torch.nn.Linear(2, 2)
    average = WeightAverage(layer, decay=0.9)
    with torch.no_grad():
        layer.bias.add_(1.0)
    before = average.weights["bias"].clone()
    average.update(layer)
    torch.testing.assert_close(average.weights["bias"], before + 0.1)


class Weights(torch.nn.Module):
    """Tensors of several chunks and of one, laid out otherwise than written, counters, and nothing at all."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        for number, shape in enumerate([(1,), (50, 4, 25), (2, CHUNK), (CHUNK + 5,), (0,)]):
            self.register_parameter(f"w{number}", torch.nn.Parameter(torch.randn(shape)))
        self.register_buffer("turned", torch.randn(7, 9).T)
        self.register_buffer("in_double", torch.randn(3).double())
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def change(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for tensor in self.state_dict().values():
                tensor += torch.randn(tensor.shape, generator=generator).to(tensor) if tensor.is_floating_point() else 1


@pytest.mark.parametrize("unless", [None, False, True])
def test_in_triton_averages_are_torchs(
    unless: bool | None, triton_interpreter: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = Weights()
    expected, ours = WeightAverage(weights, decay=0.9), WeightAverage(weights, decay=0.9)
    monkeypatch.setattr(chunks, "CHUNK", CHUNK)
    monkeypatch.setattr(chunks, "BLOCK", BLOCK)
    for seed in range(2):
        weights.change(seed)
        given = None if unless is None else torch.tensor(unless)
        expected.update(weights, unless=given)
        with monkeypatch.context() as patch:
            patch.setattr("jasper_ray.training.ema.triton_runs", lambda device: True)
            ours.update(weights, unless=given)
    torch.testing.assert_close(ours.weights, expected.weights, rtol=1e-6, atol=1e-6)
    stayed = torch.equal(ours.weights["w3"], Weights().w3)
    assert stayed is bool(unless)


COMPILE = """
from jasper_ray.training import ema_kernels
types = {"owners": "*i32", "first": "*i32", "pointers": "*i64", "sizes": "*i64", "unless": "*u8", "share": "fp32"}
for constants in ({}, {"unless": None}):
    asm = compiled(ema_kernels.average_kernel, {"CHUNK": 16384, "BLOCK": 1024, **constants}, types).asm
    print(all(instruction in asm["ptx"] for instruction in ("ld.global.v4", "st.global.v4")))
"""


@pytest.mark.parametrize("capability", ["80", "90"])
def test_the_kernel_compiles_for_nvidias_gpus_and_takes_four_numbers_at_a_time(
    capability: str, compile_kernels: Callable[[str, str], "subprocess.CompletedProcess[str]"]
) -> None:
    done = compile_kernels(COMPILE, capability)
    assert done.stdout.split() == ["True"] * 2, done.stderr


@pytest.mark.gpu
def test_on_a_gpu_averages_are_the_cpus_without_a_wait_of_the_host() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    weights = Weights()
    expected, ours = WeightAverage(weights, decay=0.9), WeightAverage(weights.cuda(), decay=0.9)
    assert triton_runs(torch.device("cuda"))
    for seed, skipped in enumerate((False, True, False)):
        weights.cpu().change(seed)
        expected.update(weights, unless=torch.tensor(skipped))
        unless = torch.tensor(skipped).cuda()
        weights.cuda()
        torch.cuda.set_sync_debug_mode("error")
        try:
            ours.update(weights, unless=unless)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for name, tensor in expected.weights.items():
        torch.testing.assert_close(ours.weights[name].cpu(), tensor, rtol=1e-6, atol=1e-6)
