"""Bytes to features under speed perturbation (0.85 to 1.15), one thread: seconds of audio per second of processor.

Seconds are those of the files, whatever speed was drawn. The time of this project's loaders has everything in it from
the memory map to the padded batch.
"""

from collections.abc import Callable, Iterator
from functools import partial

from jasper_ray.config.data import LoaderConfig
from jasper_ray.config.speech import AugmentConfig, FeatureConfig
from jasper_ray.data.batch import Batch, BatchLoader
from jasper_ray.data.source import EncodedUtterance
from jasper_ray.data.torch_loader import TorchLoader
from jobs.benchmarks.corpus import BenchmarkCorpus
from jobs.benchmarks.nvidia_dali import NvidiaGraph, has_dali
from jobs.benchmarks.peers import NOT_INSTALLED
from jobs.benchmarks.timing import Work

TORCH, FOLDED, DALI = "jasper_ray torch, soxr HQ", "jasper_ray torch, folded", "jasper_ray DALI, soxr HQ"
NVIDIA = "NVIDIA's DALI graph"
BATCH = 32

Microbatches = Callable[[AugmentConfig, int], Iterator[list[EncodedUtterance]]]
"""An epoch's micro-batches under an augmentation."""


def speed_augment(method: str = "") -> AugmentConfig:
    """Speeds as in NVIDIA's recipe."""
    knobs = {"speed_method": method} if method else {}
    return AugmentConfig.model_validate({"speed_min": 0.85, "speed_max": 1.15, **knobs})


def has_folding() -> bool:
    """Whether speed can be folded into the spectrum."""
    return "speed_method" in AugmentConfig.model_fields


def absent_loaders() -> dict[str, str]:
    """Contenders of this part that cannot run, and why."""
    absent = {} if has_dali() else {DALI: NOT_INSTALLED, NVIDIA: NOT_INSTALLED}
    return absent if has_folding() else absent | {FOLDED: "augment.speed_method is not there"}


def loaders() -> dict[str, tuple[AugmentConfig, Callable[[], BatchLoader]]]:
    """This project's loaders by name, each with the augmentation that it is given."""
    config = LoaderConfig(num_threads=1)
    made: dict[str, tuple[AugmentConfig, Callable[[], BatchLoader]]] = {
        TORCH: (speed_augment(), lambda: TorchLoader(FeatureConfig(), config))
    }
    if has_folding():
        made[FOLDED] = (speed_augment("folded"), lambda: TorchLoader(FeatureConfig(), config))
    if has_dali():
        made[DALI] = (speed_augment(), partial(_dali_loader, config))
    return made


def _dali_loader(config: LoaderConfig) -> BatchLoader:
    from jasper_ray.data.dali_loader import DaliLoader

    return DaliLoader(FeatureConfig(), config.model_copy(update={"backend": "dali"}))


def feature_contenders(corpus: BenchmarkCorpus, microbatches: Microbatches, rows: list[int]) -> dict[str, Work]:
    """Ways to the features of some utterances, by name; each returns seconds of audio."""
    durations_s = corpus.manifest.durations_s
    contenders: dict[str, Work] = {
        name: partial(_load, make(), augment, microbatches, durations_s.tolist())
        for name, (augment, make) in loaders().items()
    }
    if has_dali():
        graph = NvidiaGraph([corpus.files[row] for row in rows], batch_size=BATCH, num_threads=1, seed=1, ahead=False)
        contenders[NVIDIA] = partial(_run_graph, graph, [float(durations_s[row]) for row in rows])
    return contenders


def _load(
    loader: BatchLoader, augment: AugmentConfig, microbatches: Microbatches, durations_s: list[float], epoch: int
) -> float:
    batches: Iterator[Batch] = loader.load(microbatches(augment, epoch))
    return sum(durations_s[index] for batch in batches for index in batch.indices)


def _run_graph(graph: NvidiaGraph, durations_s: list[float], epoch: int) -> float:
    return sum(durations_s[number] for _, numbers in graph.epoch() for number in numbers)
