"""The inference benchmark: what NVIDIA's `inference_benchmark` measures, through the engine that serves.

Noise of fixed durations in batches of fixed sizes; data time is waveforms to features, model time is features to best
labels on the host. Percentiles are over steps. With peers, NVIDIA's computation in plain PyTorch (and OpenVINO) runs
step by step in turn on the same waveforms and weights. Weights are random: they cost what trained ones cost.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from benchmarks.yardstick import YardstickFeatures, YardstickJasper
from jasper_ray.audio.batch_filterbank import BatchFilterbank
from jasper_ray.audio.filterbank import Filterbank
from jasper_ray.config.model import PRESETS, ModelConfig
from jasper_ray.config.speech import FeatureConfig, TextConfig
from jasper_ray.errors import ConfigError
from jasper_ray.inference.direct import DirectRunner
from jasper_ray.inference.engine import DTYPES, Engine, Method, Precision
from jasper_ray.inference.folded import fold
from jasper_ray.model.bundle import Bundle, BundleConfig, build_model, load_bundle, save_bundle
from jasper_ray.text.alphabet import Alphabet
from jasper_ray.training.latencies import percentiles
from jobs.benchmarks.calls import num_calls

YARDSTICK = "yardstick, eager fp32"
Batch = tuple[Tensor, Tensor]
"""`(B, N)` waveforms and `(B,)` samples, or `(B, F, T)` features and `(B,)` frames."""


@dataclass
class Contender:
    """A way from waveforms to best labels, and what its steps took."""

    features: Callable[[Tensor, Tensor], Batch]
    log_probs: Callable[[Tensor, Tensor], Batch]
    wall_s: list[tuple[float, float]] = field(default_factory=list)
    """Of data and of the model."""
    cpu_s: list[tuple[float, float]] = field(default_factory=list)

    def step(self, waveforms: Tensor, samples: Tensor) -> None:
        """One batch, timed."""
        marks = [_now()]
        features = self.features(waveforms, samples)
        marks.append(_now())
        log_probs, _ = self.log_probs(*features)
        log_probs.argmax(dim=2).cpu()  # waits for the device
        marks.append(_now())
        for column, seconds in enumerate((self.wall_s, self.cpu_s)):
            seconds.append((marks[1][column] - marks[0][column], marks[2][column] - marks[1][column]))


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


@dataclass(frozen=True)
class InferenceBenchmark:
    """What is measured."""

    bundle: Bundle
    batch_sizes: tuple[int, ...]
    durations_s: tuple[float, ...]
    ways: tuple[tuple[Precision, Method], ...]
    device: str
    warmup: int
    steps: int
    with_yardstick: bool
    with_openvino: bool


def measure_inference(benchmark: InferenceBenchmark, say: Callable[[str], None]) -> Mapping[str, Any]:
    """Latencies of every batch size and duration by every way, and operator calls."""
    config = benchmark.bundle.config
    make_features = _features_on(benchmark.device, config.features)
    contenders: dict[str, Contender] = {}
    if benchmark.with_yardstick:
        contenders[YARDSTICK] = _yardstick(benchmark.bundle, benchmark.device)
    for precision, method in benchmark.ways:
        engine = Engine(benchmark.bundle, device=benchmark.device, precision=precision, method=method)
        contenders[f"{precision}, {engine.method}"] = Contender(make_features, engine.log_probs)
    if benchmark.with_openvino:
        from jobs.benchmarks.openvino_peer import openvino_log_probs  # only here: a peer that few have

        for precision in dict.fromkeys(precision for precision, _ in benchmark.ways if precision != "fp16"):
            run = openvino_log_probs(benchmark.bundle, precision)
            contenders[f"{precision}, OpenVINO"] = Contender(make_features, run)
    rows = []
    for duration_s in benchmark.durations_s:
        for batch_size in benchmark.batch_sizes:
            rows += list(_measure(benchmark, contenders, batch_size, duration_s))
            say("; ".join(_line(row) for row in rows[-len(contenders) :]))
    return {"rows": rows, "operator_calls": operator_calls(benchmark.bundle)}


def _measure(
    benchmark: InferenceBenchmark, contenders: Mapping[str, Contender], batch_size: int, duration_s: float
) -> Iterator[dict[str, Any]]:
    num_samples = round(duration_s * benchmark.bundle.config.features.sample_rate_hz)
    waveforms = 0.1 * torch.randn(batch_size, num_samples, generator=torch.Generator().manual_seed(0))
    samples = torch.full((batch_size,), num_samples)
    with torch.inference_mode():
        for number in range(benchmark.warmup + benchmark.steps):
            for contender in contenders.values():
                if number == benchmark.warmup:
                    contender.wall_s.clear()
                    contender.cpu_s.clear()
                contender.step(waveforms, samples)
        reference = contenders.get(YARDSTICK)
        for name, contender in contenders.items():
            row = {"batch_size": batch_size, "duration_s": duration_s, "way": name, **_figures(contender)}
            row["audio_s_per_s"] = batch_size * duration_s / row["data+model_s"]["mean"]
            if reference is not None:
                row |= _beside(contender, reference)
                row |= _accuracy(contender, reference, waveforms, samples)
            yield row


def _figures(contender: Contender) -> dict[str, Any]:
    data, model = ([pair[column] for pair in contender.wall_s] for column in (0, 1))
    both = [sum(pair) for pair in contender.wall_s]
    named = {"data_s": data, "model_s": model, "data+model_s": both}
    latencies = {name: {"mean": statistics.fmean(of), **percentiles(of)} for name, of in named.items()}
    return latencies | {"model_cpu_s": statistics.median(pair[1] for pair in contender.cpu_s)}


def _beside(contender: Contender, reference: Contender) -> dict[str, float]:
    """Medians over the steps of how many times faster it was than the reference in the same step."""
    pairs = list(zip(contender.cpu_s, reference.cpu_s, strict=True))
    walls = list(zip(contender.wall_s, reference.wall_s, strict=True))
    return {
        "faster_model_cpu": statistics.median(theirs[1] / ours[1] for ours, theirs in pairs),
        "faster_with_features_cpu": statistics.median(sum(theirs) / sum(ours) for ours, theirs in pairs),
        "faster_with_features_wall": statistics.median(sum(theirs) / sum(ours) for ours, theirs in walls),
    }


def _accuracy(contender: Contender, reference: Contender, waveforms: Tensor, samples: Tensor) -> dict[str, float]:
    """Against the reference on the same features: relative error of probabilities, share of equal best labels."""
    features, frames = contender.features(waveforms, samples)
    got, lengths = contender.log_probs(features, frames)
    expected, _ = reference.log_probs(features, frames)
    valid = int(lengths[0])
    got, expected = got[:, :valid].cpu(), expected[:, :valid].cpu()
    error = (got.exp() - expected.exp()).norm() / expected.exp().norm()
    agreeing = (got.argmax(dim=2) == expected.argmax(dim=2)).float().mean()
    return {"relative_error": float(error), "labels_agreeing": float(agreeing)}


def _line(row: Mapping[str, Any]) -> str:
    text = f"{row['batch_size']} x {row['duration_s']:g} s, {row['way']}: {1e3 * row['data+model_s']['mean']:,.1f} ms"
    if "faster_model_cpu" in row:
        text += f" ({row['faster_model_cpu']:.2f} times, with features {row['faster_with_features_cpu']:.2f})"
    return text


def _features_on(device: str, config: FeatureConfig) -> Callable[[Tensor, Tensor], Batch]:
    """As a `Transcriber` makes them."""
    if device == "cpu":
        alone = Filterbank(config)

        def one_by_one(waveforms: Tensor, samples: Tensor) -> Batch:
            features = torch.stack([alone(waveform) for waveform in waveforms])
            return features, torch.full_like(samples, features.shape[2])

        return one_by_one
    together = BatchFilterbank(config, device=torch.device(device))

    def at_once(waveforms: Tensor, samples: Tensor) -> Batch:
        features, frames = together(list(waveforms.numpy()))
        torch.cuda.synchronize()  # or the model would be given the time
        return features, frames

    return at_once


def _yardstick(bundle: Bundle, device: str) -> Contender:
    features = bundle.config.features
    num_labels = bundle.alphabet.num_labels
    model = YardstickJasper(bundle.config.model, num_mels=features.num_mels, num_labels=num_labels)
    model.load_state_dict(bundle.model.state_dict())
    model.to(device).eval()
    return Contender(YardstickFeatures(features), lambda x, lengths: model(x.to(device), lengths.to(device)))


def operator_calls(bundle: Bundle) -> dict[str, int]:
    """ATen calls of a forward pass over 8 x 7 s, counted without computing where that is possible."""
    narrow = tuple(block.model_copy(update={"filters": 8}) for block in bundle.config.model.resolved_blocks)
    config = bundle.config.model_copy(update={"model": ModelConfig(preset=None, blocks=narrow)})
    model = build_model(config.model, config.features, config.text).eval()
    sizes = {"num_mels": config.features.num_mels, "num_labels": bundle.alphabet.num_labels}
    yardstick = YardstickJasper(config.model, **sizes).eval()
    features, lengths = torch.randn(8, config.features.num_mels, 704), torch.full((8,), 700)
    small = Bundle(model, config, bundle.alphabet)
    direct, frequency = (Engine(small, method=method) for method in ("direct", "frequency"))
    meta = torch.device("meta")
    on_gpu = DirectRunner(fold(model), device=meta, dtype=torch.float16)
    keep = torch.ones(8, 1, 704, device=meta)
    return {
        "yardstick": num_calls(lambda: yardstick(features, lengths)),
        "direct, CPU": num_calls(lambda: direct.log_probs(features, lengths)),
        "direct, CPU, lengths differ": num_calls(lambda: direct.log_probs(features, lengths - torch.arange(8))),
        "direct, GPU, before it is captured as one graph": num_calls(lambda: on_gpu.log_probs(features.to(meta), keep)),
        "frequency, CPU": num_calls(lambda: frequency.log_probs(features, lengths)),
    }


def add_inference_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of the part."""
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--bundle", help="bundle to measure (default: the preset with random weights)")
    parser.add_argument("--preset", default="jasper10x5dr", help="model (default jasper10x5dr)")
    sizes = [1, 2, 4, 8, 16]
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=sizes, help=f"(default {sizes})")
    durations = [2.0, 7.0, 16.7]
    parser.add_argument("--seconds", type=float, nargs="+", default=durations, help=f"(default {durations})")
    precisions = ["fp16", "bf16"] if on_gpu else ["fp32"]
    parser.add_argument("--precisions", nargs="+", choices=get_args(Precision), default=precisions)
    parser.add_argument("--methods", nargs="+", choices=get_args(Method), default=["auto"], help="(default auto)")
    steps = 500 if on_gpu else 20
    parser.add_argument("--steps", type=int, default=steps, help=f"timed steps (default here {steps}; on a GPU 500)")
    parser.add_argument("--warmup", type=int, default=10 if on_gpu else 2, help="steps before them (on a GPU 10)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of a CPU (default 1)")
    parser.add_argument("--peers", action="store_true", help="in turn with NVIDIA's computation in plain PyTorch")
    parser.add_argument("--openvino", action="store_true", help="in turn with OpenVINO, where it is installed")
    parser.add_argument(
        "--layer", type=int, nargs=4, action="append", metavar=("C", "K", "ROWS", "FRAMES"), default=[],
        help="layers instead, on a CPU, by the direct sum and by tiles of --hops output frames; may be repeated",
    )  # fmt: skip
    parser.add_argument("--hops", type=int, nargs="+", default=[24, 48], help="(default 24 48)")


def inference_benchmark_of(arguments: argparse.Namespace) -> InferenceBenchmark:
    """What the command line names.

    Raises:
        ConfigError: A preset or number that there is not.
    """
    for name in ("batch_sizes", "seconds", "steps", "threads"):
        value = getattr(arguments, name)
        if min(value if isinstance(value, list) else [value]) <= 0:
            raise ConfigError(f"--{name.replace('_', '-')} must be above 0, got {value}")
    if arguments.preset not in PRESETS:
        raise ConfigError(f"--preset must be one of {', '.join(PRESETS)}, got {arguments.preset!r}")
    torch.set_num_threads(arguments.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert set(arguments.precisions) <= DTYPES.keys()
    ways = tuple((precision, method) for precision in arguments.precisions for method in arguments.methods)
    return InferenceBenchmark(
        load_bundle(arguments.bundle) if arguments.bundle else _random_bundle(arguments.preset),
        tuple(arguments.batch_sizes),
        tuple(arguments.seconds),
        ways,
        device,
        arguments.warmup,
        arguments.steps,
        arguments.peers,
        arguments.openvino,
    )


@contextmanager
def bundle_or_preset(name: str) -> Iterator[str]:
    """A bundle's address; for the name of a preset, of one with random weights, which ends with the context."""
    if name not in PRESETS:
        yield name
        return
    with tempfile.TemporaryDirectory() as folder:
        made = _random_bundle(name)
        save_bundle(Path(folder), config=made.config, weights=made.model.state_dict(), plain_weights=None)
        yield folder


def _random_bundle(preset: str) -> Bundle:
    torch.manual_seed(0)
    config = BundleConfig(
        features=FeatureConfig(), text=TextConfig(), model=ModelConfig.model_validate({"preset": preset})
    )
    model = build_model(config.model, config.features, config.text).eval()
    return Bundle(model, config, Alphabet(config.text.alphabet))
