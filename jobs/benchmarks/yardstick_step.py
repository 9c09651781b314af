"""Training steps and single layers beside their references, in turn in one process, with their accuracy."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.yardstick import YardstickJasper, YardstickNovograd, train_step
from jasper_ray.config.model import ModelConfig
from jasper_ray.model.convolution import Convolution, Method
from jasper_ray.model.ctc import ctc_losses
from jasper_ray.training.world import World
from jobs.benchmarks.timing import Run, Work, run_in_turn
from jobs.benchmarks.training import (
    BLANK,
    DTYPES,
    FEATURES,
    Case,
    make_case_batch,
    make_case_model,
    make_step,
    tf32_allowed,
)

YARDSTICK = "yardstick, eager fp32"
LAYER_ERRORS = ("error_output", "error_input_gradient", "error_weight_gradient")


def measure_beside_yardstick(
    cases: tuple[Case, ...], *, rounds: int, threads: int, device: str, with_errors: bool = True
) -> dict[str, Any]:
    """Steps of our cases and of the yardstick on the same batch and first weights, one device.

    Args:
        cases: Of one model and size.
        rounds: After one that warms up.
        threads: Of a CPU.
        device: `cpu` or `cuda`.
        with_errors: Whether accuracy is measured too.

    Returns:
        Medians of milliseconds and of the rounds' ratios by name; errors of loss and gradient without dropout.
    """
    torch.set_num_threads(threads)
    world = World(device=torch.device(device))
    contenders: dict[str, Work] = {YARDSTICK: _yardstick_step(cases[0], world.device)}
    contenders |= {case.name: _step(case, world) for case in cases}
    return {
        "batch_size": cases[0].batch_size,
        "seconds": cases[0].seconds,
        "num_parameters": sum(parameter.numel() for parameter in make_case_model(cases[0]).parameters()),
        "step_ms": _table(run_in_turn(contenders, rounds), YARDSTICK),
        "errors": {case.name: step_errors(case, world.device) for case in cases} if with_errors else {},
    }


def _table(runs: Mapping[str, list[Run]], reference: str) -> dict[str, dict[str, float]]:
    return {
        name: {
            "cpu_ms": 1e3 * statistics.median(run.cpu_s for run in of_one),
            "wall_ms": 1e3 * statistics.median(run.wall_s for run in of_one),
            "faster_cpu": statistics.median(
                one.cpu_s / run.cpu_s for one, run in zip(runs[reference], of_one, strict=True)
            ),
            "faster_wall": statistics.median(
                one.wall_s / run.wall_s for one, run in zip(runs[reference], of_one, strict=True)
            ),
        }
        for name, of_one in runs.items()
    }


def _step(case: Case, world: World) -> Work:
    run = make_step(case, world)

    def work(number: int) -> float:
        with tf32_allowed(case.precision == "tf32"):
            run(number)
        return case.batch_size

    return work


def _yardstick(case: Case) -> YardstickJasper:
    model = YardstickJasper(case.model, num_mels=FEATURES.num_mels, num_labels=BLANK + 1)
    model.load_state_dict(make_case_model(case).state_dict())
    return model.train()


def _yardstick_step(case: Case, device: torch.device) -> Work:
    model, batch = _yardstick(case).to(device), make_case_batch(case).to(device)
    optimizer = YardstickNovograd(model.parameters(), 1e-4)

    def work(_: int) -> float:
        with tf32_allowed(False):
            train_step(model, optimizer, batch.features, batch.feature_lengths, batch.labels, batch.label_lengths)
        return case.batch_size

    return work


def step_errors(case: Case, device: torch.device) -> dict[str, float]:
    """Relative errors of loss and of the whole gradient against the yardstick's in fp32, without dropout."""
    blocks = tuple(block.model_copy(update={"dropout": 0.0}) for block in case.model.resolved_blocks)
    case = replace(case, model=ModelConfig(preset=None, blocks=blocks))
    batch = make_case_batch(case).to(device)
    reference, ours = _yardstick(case).to(device), make_case_model(case).to(device).train()
    dtype = DTYPES[case.precision]

    def loss(model: nn.Module, *, half: bool) -> Tensor:
        with torch.autocast(device.type, dtype, enabled=half):
            log_probs, lengths = model(batch.features, batch.feature_lengths)
            return ctc_losses(log_probs, lengths, batch.labels, batch.label_lengths, blank=BLANK).mean()

    with tf32_allowed(False):
        expected = loss(reference, half=False)
        expected.backward()
    with tf32_allowed(case.precision == "tf32"):
        got = loss(ours, half=dtype != torch.float32)
        got.backward()
    return {"loss": relative_error(got, expected), "gradient": relative_error(_gradient(ours), _gradient(reference))}


def _gradient(model: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None])


def relative_error(got: Tensor, expected: Tensor) -> float:
    """Length of the difference over the length of what is expected."""
    got, expected = got.detach().double(), expected.detach().double()
    return float((got - expected).norm() / expected.norm())


def measure_layer(
    channels: int, kernel: int, rows: int, frames: int, *, precisions: list[str], rounds: int, threads: int, device: str
) -> dict[str, Any]:
    """One trained layer, forward and both gradients with the weights changed in between, by every method.

    Each method is given its input and gradient in the layout that it likes.

    Returns:
        Medians of milliseconds by name, ratios to the faster direct sum of the same precision, and errors of output,
        input's and weight's gradient against float64.
    """
    torch.set_num_threads(threads)
    methods: tuple[Method, ...] = ("conv1d", "channels_last", "frequency")
    layers = {
        f"{precision}, {method}": _LayerRun(channels, kernel, rows, frames, method, DTYPES[precision], device)
        for precision in precisions
        for method in methods
    }
    runs = run_in_turn({name: layer.work for name, layer in layers.items()}, rounds)
    figures: dict[str, Any] = {}
    for precision in precisions:
        direct = min(
            (f"{precision}, {method}" for method in methods[:2]),
            key=lambda name: statistics.median(run.wall_s if device == "cuda" else run.cpu_s for run in runs[name]),
        )
        of_precision = {name: run for name, run in runs.items() if name.startswith(f"{precision},")}
        figures |= _table(of_precision, direct)
    exact = {precision: layers[f"{precision}, conv1d"].exact() for precision in precisions}
    for name, layer in layers.items():
        expected = exact[name.partition(",")[0]]  # of the same rounded input
        errors = [relative_error(ours, direct_sum) for ours, direct_sum in zip(layer.compute(), expected, strict=True)]
        figures[name] |= dict(zip(LAYER_ERRORS, errors, strict=True))
    return {"channels": channels, "kernel": kernel, "rows": rows, "frames": frames, "methods": figures}


class _LayerRun:
    def __init__(
        self, channels: int, kernel: int, rows: int, frames: int, method: Method, dtype: torch.dtype, device: str
    ) -> None:
        torch.manual_seed(0)
        self._layer = Convolution(channels, channels, kernel, padding=kernel // 2, bias=False)
        nn.init.normal_(self._layer.weight, std=(channels * kernel) ** -0.5)
        self._layer.method = method
        self._layer.to(device)
        tensors = (torch.randn(rows, frames, channels, device=device).transpose(1, 2) for _ in range(2))
        place: Callable[[Tensor], Tensor] = Tensor.contiguous if method == "conv1d" else lambda x: x
        self._x, self._grad = (place(x.to(dtype)) for x in tensors)
        self._dtype = dtype

    def compute(self) -> tuple[Tensor, ...]:
        """Output, input's and weight's gradient."""
        x = self._x.detach().requires_grad_()
        with torch.autocast(x.device.type, self._dtype, enabled=self._dtype != torch.float32):
            y = self._layer(x)
        return (y, *torch.autograd.grad(y, [x, self._layer.weight], self._grad))

    def work(self, _: int) -> float:
        """As in a step: the weights have changed since the last time."""
        with torch.no_grad():
            self._layer.weight.add_(0)
        self.compute()
        if self._x.device.type == "cuda":
            torch.cuda.synchronize()
        return 1.0

    def exact(self) -> tuple[Tensor, ...]:
        """The direct sum in float64."""
        x = self._x.detach().double().requires_grad_()
        weight = self._layer.weight.detach().double().requires_grad_()
        y = functional.conv1d(x, weight, padding=weight.shape[2] // 2)
        return (y, *torch.autograd.grad(y, [x, weight], self._grad.double()))
