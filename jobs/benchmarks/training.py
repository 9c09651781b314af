"""The training benchmark: steps on utterances padded to one duration, over batch sizes and numbers of devices.

What NVIDIA's `train_benchmark` measures: step latencies, sequences per second and their growth with the devices (weak
scaling); and the share of the device's arithmetic that goes into the model, of the time outside convolutions and of the
time that a GPU is idle. Latencies wait for each step's loss; sequences per second are those of steps that follow each
other as in training, where nothing waits. Features are noise (they cost a model the same) and lie on the device, so
that nothing but the step is timed. Needs no Ray: processes are torch's own.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist

from jasper_ray.config.model import PRESETS, ModelConfig
from jasper_ray.config.schema import OptimizerConfig, TrainingConfig
from jasper_ray.config.speech import FeatureConfig, TextConfig
from jasper_ray.data.batch import Batch
from jasper_ray.errors import ConfigError
from jasper_ray.model.arithmetic import step_flops
from jasper_ray.model.bundle import build_model
from jasper_ray.model.convolution import METHODS, Method, set_convolution_method
from jasper_ray.model.jasper import NORMALIZATIONS, RESIDUALS, Jasper, Normalization, Residuals, set_residuals
from jasper_ray.text.alphabet import Alphabet
from jasper_ray.training.ema import WeightAverage
from jasper_ray.training.figures import PendingStep, read_steps
from jasper_ray.training.latencies import percentiles
from jasper_ray.training.optimizers import build_optimizer
from jasper_ray.training.step import TrainStep
from jasper_ray.training.world import World
from jobs.benchmarks.arithmetic import products_per_s
from jobs.benchmarks.batches import Shape, make_batch
from jobs.benchmarks.profile import step_shares

FEATURES, TEXT = FeatureConfig(), TextConfig()
BLANK = Alphabet(TEXT.alphabet).blank
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
GRAPHS = {"auto": None, "on": True, "off": False}
Precision = Literal["fp32", "tf32", "bf16", "fp16"]


@dataclass(frozen=True)
class Case:
    """One way to train, at one size."""

    model: ModelConfig
    batch_size: int
    """Utterances per device."""
    seconds: float
    """Length that every utterance is padded to."""
    precision: Precision = "fp32"
    method: Method = "auto"
    ema_decay: float = 0.999
    packed: bool = False
    """Rows that hold several utterances, `seconds` long on the average; `batch_size` of them would fill the rows."""
    ctc: Literal["auto", "torch", "triton"] = "auto"
    """Who computes the loss."""
    normalization: Normalization = "auto"
    """Who computes what lies between convolutions."""
    residuals: Residuals = "separate"
    """How dense residuals are computed."""
    cuda_graphs: bool | None = None
    """`training.cuda_graphs`."""

    @property
    def name(self) -> str:
        """As it stands in a table."""
        parts = [self.precision, self.method, *(["packed"] if self.packed else [])]
        if self.ctc != "auto":
            parts.append(f"CTC in {self.ctc}")
        if self.normalization != "auto":
            parts.append(f"norms in {self.normalization}")
        if self.residuals != "separate":
            parts.append(f"residuals {self.residuals}")
        if self.cuda_graphs is not None:
            parts.append("graphs" if self.cuda_graphs else "no graphs")
        return ", ".join(parts)


@dataclass(frozen=True)
class TrainingBenchmark:
    """What is measured."""

    cases: tuple[Case, ...]
    num_devices: tuple[int, ...]
    steps: int
    warmup: int
    threads: int
    """Of a CPU device."""
    device: str
    """`cpu` or `cuda`."""
    peak_flop_per_s: float | None = None
    """What utilisation is a share of; None measures it."""


def measure_training(
    benchmark: TrainingBenchmark, say: Callable[[str], None], rows_file: Path | None = None
) -> list[dict[str, Any]]:
    """A row of figures for every case and number of devices; each is appended at once to a file, if there is one."""
    rows: list[dict[str, Any]] = []
    for case in benchmark.cases:
        alone: float | None = None
        for num_devices in benchmark.num_devices:
            figures = _describe(case, _on_devices(case, benchmark, num_devices), num_devices)
            alone = figures["sequences_per_s"] / num_devices if alone is None else alone
            figures["weak_scaling"] = figures["sequences_per_s"] / (num_devices * alone)
            rows.append(figures)
            if rows_file is not None:
                with rows_file.open("a") as stream:
                    print(json.dumps(figures), file=stream)
            say(
                f"{num_devices} x {case.batch_size} x {case.seconds:g} s, {case.name}:"
                f" {1e3 * figures['queued_step_s']:,.0f} ms, {figures['sequences_per_s']:.2f} sequences/s,"
                f" utilisation {figures['utilisation']:.0%}, outside convolutions {figures['outside_convolutions']:.0%}"
                + ("" if figures["device_idle"] is None else f", idle {figures['device_idle']:.1%}")
            )
    return rows


def _describe(case: Case, measured: Mapping[str, Any], num_devices: int) -> dict[str, Any]:
    seconds = measured["step_s"]
    per_s = 1 / measured["queued_step_s"]
    flops = step_flops(case.model, num_mels=FEATURES.num_mels, num_labels=BLANK + 1, seconds=1.0) * measured["audio_s"]
    return {
        "devices": num_devices,
        "batch_size": case.batch_size,
        "seconds": case.seconds,
        "packed": case.packed,
        "utterances": measured["utterances"],
        "audio_s": measured["audio_s"],
        "precision": case.precision,
        "convolution": case.method,
        "ctc": case.ctc,
        "normalization": case.normalization,
        "residuals": case.residuals,
        "cuda_graphs": measured["cuda_graphs"],
        "step_s": {"mean": statistics.fmean(seconds), **percentiles(seconds)},
        "queued_step_s": measured["queued_step_s"],
        "sequences_per_s": num_devices * measured["utterances"] * per_s,
        "flop_per_s": flops * per_s,
        "device_flop_per_s": measured["device_flop_per_s"],
        "utilisation": flops * per_s / measured["device_flop_per_s"],
        "outside_convolutions": measured["outside_convolutions"],
        "device_idle": measured["device_idle"],
        "kernels": measured["kernels"],
        "gaps": measured["gaps"],
        "peak_memory_gb": measured["peak_memory_gb"],
    }


def _on_devices(case: Case, benchmark: TrainingBenchmark, num_devices: int) -> Mapping[str, Any]:
    if num_devices == 1:
        return _measure_case(case, benchmark, World(device=torch.device(benchmark.device)))
    with tempfile.TemporaryDirectory() as folder:
        arguments = (case, benchmark, num_devices, folder)
        torch.multiprocessing.spawn(_process, arguments, nprocs=num_devices)  # type: ignore[no-untyped-call]
        figures: Mapping[str, Any] = torch.load(Path(folder) / "figures.pt", weights_only=True)
        return figures


def _process(rank: int, case: Case, benchmark: TrainingBenchmark, num_devices: int, folder: str) -> None:
    on_gpu = benchmark.device == "cuda"
    device = torch.device("cuda", rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if on_gpu else "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=num_devices
    )
    try:
        figures = _measure_case(case, benchmark, World(rank, num_devices, device))
        if rank == 0:
            torch.save(figures, Path(folder) / "figures.pt")
    finally:
        dist.destroy_process_group()


def _measure_case(case: Case, benchmark: TrainingBenchmark, world: World) -> dict[str, Any]:
    if world.device.type == "cpu":
        torch.set_num_threads(benchmark.threads)
    else:
        torch.cuda.reset_peak_memory_stats(world.device)
    with tf32_allowed(case.precision == "tf32"):
        rate = benchmark.peak_flop_per_s or products_per_s(world.device, DTYPES[case.precision])
        step = CaseStep(case, world)
        seconds = [_timed(step.run, number) for number in range(benchmark.warmup + benchmark.steps)]
        seconds, queued_s = seconds[benchmark.warmup :], step.queued(benchmark.steps)
        shares = step_shares(step.queue, steps=min(benchmark.steps, 3), device=world.device)
    memory = torch.cuda.max_memory_allocated(world.device) / 1e9 if world.device.type == "cuda" else None
    if world.size > 1:  # what workers exchange is no operator of torch's
        shares["device_idle"] = None
    measured = {"step_s": seconds, "queued_step_s": queued_s, "device_flop_per_s": rate, "peak_memory_gb": memory}
    measured["cuda_graphs"] = step.num_graphs
    return {**measured, **shares, "utterances": len(step.batch.indices), "audio_s": step.batch.audio_s}


def _timed(run: Callable[[int], float], number: int) -> float:
    started_s = time.perf_counter()
    run(number)  # asks the device for the loss, so it is done when it returns
    return time.perf_counter() - started_s


DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def tf32_allowed(allowed: bool) -> Iterator[None]:
    """Let a GPU round the factors of fp32 products to 10 bits, or forbid it."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def make_case_model(case: Case) -> Jasper:
    """The same weights for every way to train."""
    torch.manual_seed(0)
    config = case.model.model_copy(update={"batch_norm_padding": "exclude"}) if case.packed else case.model
    model = build_model(config, FEATURES, TEXT)
    set_convolution_method(model, case.method)
    set_residuals(model, case.residuals)
    return model


def make_case_batch(case: Case, *, rank: int = 0) -> Batch:
    """What a device is given in every step; other noise on every rank."""
    return make_batch(Shape(case.batch_size, case.seconds, case.packed), FEATURES, blank=BLANK, rank=rank)


class CaseStep:
    """Steps of a case on this process's device."""

    def __init__(self, case: Case, world: World) -> None:
        model = make_case_model(case).to(world.device)
        given = make_case_batch(case, rank=world.rank)
        # Lengths stay with the host, as a loader's do.
        lengths = {"feature_lengths": given.feature_lengths, "label_lengths": given.label_lengths}
        self.batch = replace(given.to(world.device), **lengths)
        self._world = world
        self._utterances = round(float(world.sum(torch.tensor(float(len(given.indices)), device=world.device))))
        self._step = TrainStep(
            model,
            build_optimizer(model, OptimizerConfig()),
            WeightAverage(model, decay=case.ema_decay) if case.ema_decay else None,
            world=world,
            config=TrainingConfig(
                precision=case.precision,
                ctc=case.ctc,
                normalization=case.normalization,
                residuals=case.residuals,
                cuda_graphs=case.cuda_graphs,
            ),
            blank=BLANK,
            seed=0,
        )

    @property
    def num_graphs(self) -> int:
        """CUDA graphs that the steps are made by."""
        return self._step.num_graphs

    def queue(self, number: int) -> PendingStep:
        """Make a step without waiting for a GPU."""
        return self._step.start(
            [self.batch], [self._world.rank], global_step=number, num_utterances=self._utterances, lr=1e-4
        )

    def run(self, number: int) -> float:
        """Make a step and wait for its loss."""
        return read_steps([self.queue(number)], self._world)[0].loss

    def queued(self, steps: int) -> float:
        """Seconds of a step where nothing asks the device before the last one."""
        started_s = time.perf_counter()
        pending = [self.queue(number) for number in range(steps)]
        read_steps(pending, self._world)
        return (time.perf_counter() - started_s) / steps


def make_step(case: Case, world: World) -> Callable[[int], float]:
    """A function that makes the step of a number and gives its loss."""
    return CaseStep(case, world).run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of the part."""
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--preset", default="jasper10x5dr", help="model (default jasper10x5dr)")
    parser.add_argument("--first-blocks", type=int, metavar="N", help="only the model's first blocks, e.g. 5")
    parser.add_argument("--repeat", type=int, metavar="R", help="sub-blocks per block instead of the preset's, e.g. 1")
    sizes = [32, 64] if on_gpu else [8]
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=sizes, help=f"per device (default {sizes})")
    parser.add_argument(
        "--packed", type=float, nargs="?", const=12.3, metavar="MEAN_S",
        help="also packed rows, with as many utterances of this mean as fill them (12.3; a GPU's default; 0: none)",
        default=12.3 if on_gpu else None,
    )  # fmt: skip
    parser.add_argument("--peak-tflops", type=float, help="utilisation is a share of this (default: what is measured)")
    parser.add_argument("--devices", type=int, nargs="+", default=[1], help="numbers of devices (default 1)")
    parser.add_argument("--seconds", type=float, default=16.7, help="utterances are padded to this (default 16.7)")
    precisions = ["tf32", "fp16", "bf16"] if on_gpu else ["bf16"]
    parser.add_argument(
        "--precisions", nargs="+", choices=PRECISIONS, default=precisions, help=f"(default {precisions})"
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["auto"], help="training.convolution (auto)")
    parser.add_argument(
        "--ctc", nargs="+", choices=["auto", "torch", "triton"], default=["auto"], help="training.ctc (auto)"
    )
    parser.add_argument("--cuda-graphs", choices=list(GRAPHS), default="auto", help="training.cuda_graphs (auto)")
    parser.add_argument(
        "--normalizations", nargs="+", choices=NORMALIZATIONS, default=["auto"], help="training.normalization (auto)"
    )
    parser.add_argument(
        "--residuals", nargs="+", choices=RESIDUALS, default=["separate"], help="training.residuals (separate)"
    )
    parser.add_argument("--rows", type=Path, metavar="FILE", help="append each case's figures to it once measured")
    parser.add_argument("--steps", type=int, default=20, help="timed steps, or rounds of --peers (default 20)")
    parser.add_argument("--warmup", type=int, default=3, help="steps before them (default 3)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of a CPU device (default 1)")
    parser.add_argument("--peers", action="store_true", help="in turn with NVIDIA's computation in plain PyTorch")
    parser.add_argument("--layer", type=int, nargs=4, metavar=("C", "K", "ROWS", "FRAMES"), help="one layer instead")


def cases_of(arguments: argparse.Namespace) -> tuple[Case, ...]:
    """Every combination that the command line names.

    Raises:
        ConfigError: A preset or number that there is not.
    """
    for name in ("batch_sizes", "devices", "seconds", "steps", "threads"):
        value = getattr(arguments, name)
        if min(value if isinstance(value, list) else [value]) <= 0:
            raise ConfigError(f"--{name.replace('_', '-')} must be above 0, got {value}")
    if arguments.preset not in PRESETS:
        raise ConfigError(f"--preset must be one of {', '.join(PRESETS)}, got {arguments.preset!r}")
    blocks = ModelConfig(preset=arguments.preset).resolved_blocks[: arguments.first_blocks]
    if arguments.repeat:
        blocks = tuple(block.model_copy(update={"repeat": arguments.repeat}) for block in blocks)
    model = ModelConfig(preset=None, blocks=blocks)
    graphs = GRAPHS[arguments.cuda_graphs]
    first = Case(model, arguments.batch_sizes[0], arguments.seconds, cuda_graphs=graphs)
    kinds = [first]
    if arguments.packed and not (arguments.peers or arguments.layer):
        kinds.append(replace(first, seconds=arguments.packed, packed=True))
    return tuple(
        replace(
            kind,
            batch_size=batch_size,
            precision=precision,
            method=method,
            ctc=ctc,
            normalization=normalization,
            residuals=residuals,
        )
        for batch_size in arguments.batch_sizes
        for precision in arguments.precisions
        for method in arguments.methods
        for ctc in arguments.ctc
        for normalization in arguments.normalizations
        for residuals in arguments.residuals
        for kind in kinds
    )
