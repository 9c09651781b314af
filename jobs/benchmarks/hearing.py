"""What lies around the model in inference, beside NVIDIA's code for it: features of waveforms, best path to labels."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from benchmarks.yardstick import YardstickFeatures, collapse, greedy_collapse
from jasper_ray.audio.filterbank import Filterbank
from jasper_ray.config.speech import FeatureConfig
from jasper_ray.model.ctc import collapse_paths, greedy_decode
from jobs.benchmarks.timing import ratio, run_in_turn

ROUNDS, REPEATS = 9, 20
OURS, YARDSTICK = "jasper_ray", "yardstick"
BLANK = 28


def measure_features(*, utterances: int = 16, seconds: float = 10.0) -> Mapping[str, Any]:
    """Waveforms to features without dither: seconds of audio per second of processor, and how far they are apart."""
    config = FeatureConfig()
    filterbank, yardstick = Filterbank(config), YardstickFeatures(config)
    samples = round(seconds * config.sample_rate_hz)
    waveforms = 0.1 * torch.randn(utterances, samples, generator=torch.Generator().manual_seed(0))
    lengths = torch.full((utterances,), samples)

    def ours(_: int) -> float:
        for waveform in waveforms:
            filterbank(waveform)
        return utterances * seconds

    def theirs(_: int) -> float:
        yardstick(waveforms, lengths)
        return utterances * seconds

    runs = run_in_turn({OURS: ours, YARDSTICK: theirs}, ROUNDS)
    features, frames = yardstick(waveforms, lengths)
    valid = int(frames[0])
    made = torch.stack([filterbank(waveform) for waveform in waveforms])
    return {
        "utterances": utterances,
        "seconds": seconds,
        "audio_s_per_cpu_s": {name: sorted(run.per_cpu_s for run in of)[len(of) // 2] for name, of in runs.items()},
        "faster": ratio(runs, OURS, YARDSTICK),
        "largest_difference": float((made[:, :, :valid] - features[:, :, :valid]).abs().max()),
    }


def measure_greedy(*, utterances: int = 24, frames: int = 650) -> Mapping[str, Any]:
    """Log-probabilities to label ids: milliseconds of processor for the batch, with the argmax and without."""
    generator = torch.Generator().manual_seed(0)
    # As a trained model gives them: the same label for some frames, the blank between.
    path = torch.randint(0, BLANK, (utterances, frames // 5), generator=generator).repeat_interleave(5, dim=1)
    path[:, 3::5] = path[:, 4::5] = BLANK
    log_probs = torch.full((utterances, path.shape[1], BLANK + 1), -9.0)
    log_probs.scatter_(2, path[..., None], -0.01)
    lengths = torch.full((utterances,), path.shape[1])

    best = log_probs.argmax(dim=2)
    contenders: dict[str, Callable[[], object]] = {
        OURS: lambda: greedy_decode(log_probs, lengths, blank=BLANK),
        YARDSTICK: lambda: greedy_collapse(log_probs, blank=BLANK),
        f"{OURS}, after argmax": lambda: collapse_paths(best.numpy(), lengths.numpy(), blank=BLANK),
        f"{YARDSTICK}, after argmax": lambda: [collapse(row.numpy().tolist(), blank=BLANK) for row in best],
    }
    runs = run_in_turn({name: partial(_repeated, work) for name, work in contenders.items()}, ROUNDS)
    assert contenders[OURS]() == contenders[YARDSTICK]()
    middle = {name: sorted(run.cpu_s / run.amount for run in of)[len(of) // 2] for name, of in runs.items()}
    return {
        "utterances": utterances,
        "frames": path.shape[1],
        "cpu_ms": {name: 1e3 * seconds for name, seconds in middle.items()},
        "faster_with_argmax": ratio(runs, OURS, YARDSTICK),
        "faster_collapse": ratio(runs, f"{OURS}, after argmax", f"{YARDSTICK}, after argmax"),
        "labels_equal": True,
    }


def _repeated(work: Callable[[], object], _: int) -> float:
    for _ in range(REPEATS):
        work()
    return REPEATS
