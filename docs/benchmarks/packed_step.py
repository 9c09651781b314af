"""Training steps on packed rows against padded micro-batches of the same padded audio, run in turn in one process.

`python docs/benchmarks/packed_step.py CORPUS`: lengths and transcripts are those of a corpus, features are noise (they
cost a model the same). CPU seconds of the process per second of speech, one thread: medians over rounds, and of the
ratios to the `seconds` policy in the same round.
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from jasper_ray.audio.augment import draw_speeds
from jasper_ray.config.data import BatchingConfig, CorpusConfig
from jasper_ray.config.model import JASPER_MIDDLE, ModelConfig, jasper_blocks
from jasper_ray.config.schema import OptimizerConfig, TrainingConfig
from jasper_ray.config.speech import AugmentConfig, FeatureConfig, TextConfig
from jasper_ray.data.batch import Batch
from jasper_ray.data.manifest import Manifest, read_manifest
from jasper_ray.data.packing import RowShape
from jasper_ray.data.plan import RunPlan
from jasper_ray.data.preparation import prepare_dataset
from jasper_ray.model.bundle import build_model
from jasper_ray.text.alphabet import Alphabet
from jasper_ray.training.optimizers import build_optimizer
from jasper_ray.training.step import TrainStep
from jasper_ray.training.world import World

SPEED = AugmentConfig(speed_min=0.85, speed_max=1.15)
FEATURES, TEXT = FeatureConfig(), TextConfig()
ROW_S = 40.0
# Policy, what batch norm does with padding.
VARIANTS = (("fixed", "include"), ("seconds", "include"), ("seconds", "exclude"), ("packed", "exclude"))


@dataclass
class Variant:
    """One way to train and what it has cost."""

    step: TrainStep
    plan: RunPlan
    rows: RowShape | None
    cpu_s: list[float] = field(default_factory=list)
    audio_s: list[float] = field(default_factory=list)
    padding: list[float] = field(default_factory=list)

    @property
    def costs(self) -> list[float]:
        """CPU seconds per second of speech, by round."""
        return [cpu_s / audio_s for cpu_s, audio_s in zip(self.cpu_s, self.audio_s, strict=True)]


def make_variant(manifest: Manifest, policy: str, padding: str, precision: str, num_rows: int) -> Variant:
    """A small dense-residual Jasper and the micro-batches of a policy, all of about the same padded audio."""
    batching = BatchingConfig(
        policy=policy,
        seconds_per_microbatch=num_rows * ROW_S,
        utterances_per_microbatch=num_rows * 3 if policy == "fixed" else 1000,
        row_seconds=ROW_S,
        rows_per_microbatch=num_rows,
        microbatches_per_step=1,
    )
    blocks = jasper_blocks(1, JASPER_MIDDLE, copies=1, scale=0.25)
    torch.manual_seed(0)
    config = ModelConfig(preset=None, blocks=blocks, batch_norm_padding=padding)
    model = build_model(config, FEATURES, TEXT)
    step = TrainStep(
        model,
        build_optimizer(model, OptimizerConfig()),
        None,
        world=World(),
        config=TrainingConfig(precision=precision),
        blank=Alphabet(TEXT.alphabet).blank,
        seed=0,
    )
    plan = RunPlan(manifest.durations_s, seed=0, batching=batching, augment=SPEED)
    return Variant(step, plan, RowShape.of_config(batching, FEATURES) if policy == "packed" else None)


def make_batch(manifest: Manifest, utterances: list[int], rows: RowShape | None) -> Batch:
    """Noise of the utterances' lengths, padded or packed."""
    speeds = draw_speeds(SPEED, seed=0, epoch=0, utterances=np.array(utterances))
    lengths = np.ceil(manifest.durations_s[utterances] / speeds / FEATURES.hop_s).astype(int).tolist()
    alphabet = Alphabet(TEXT.alphabet)
    labels = [torch.tensor(alphabet.encode(manifest.texts[i])) for i in utterances]
    noise = [torch.randn(FEATURES.num_mels, length) for length in lengths]
    places: Tensor | None = None
    if rows is not None:
        features, layout = rows.fill(noise)
        places = torch.tensor(layout)
    else:
        multiple = FEATURES.pad_to_multiple
        features = torch.zeros(len(noise), FEATURES.num_mels, -(-max(lengths) // multiple) * multiple)
        for row, utterance in zip(features, noise, strict=True):
            row[:, : utterance.shape[1]] = utterance
    return Batch(
        features=features,
        feature_lengths=torch.tensor(lengths),
        labels=torch.nn.utils.rnn.pad_sequence(labels, batch_first=True),
        label_lengths=torch.tensor([len(ids) for ids in labels]),
        indices=tuple(utterances),
        audio_s=sum(lengths) * FEATURES.hop_s,
        places=places,
        longest=max(lengths),
    )


def run_round(variant: Variant, manifest: Manifest, number: int) -> None:
    """One step on the micro-batch of that number."""
    steps = variant.plan.epoch(0).steps
    utterances = steps[number % len(steps)][0].tolist()
    batch = make_batch(manifest, utterances, variant.rows)
    started_s = time.process_time()
    result = variant.step.run([batch], [0], global_step=number, num_utterances=len(utterances), lr=1e-4)
    variant.cpu_s.append(time.process_time() - started_s)
    variant.audio_s.append(result.audio_s)
    variant.padding.append(result.padding_share)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("corpus", help="a corpus that jobs.prepare can read")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--rows", type=int, default=3, help=f"rows of {ROW_S} s in a micro-batch")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        prepare_dataset([CorpusConfig(source=arguments.corpus)], folder, alphabet=TEXT.alphabet)
        manifest = read_manifest(folder)
    print(f"{len(manifest)} utterances, {manifest.hours:.2f} h; torch {torch.__version__}")
    for precision in ("fp32", "bf16"):
        variants = [make_variant(manifest, *variant, precision, arguments.rows) for variant in VARIANTS]
        for number in range(arguments.rounds + 1):
            first = number % len(variants)  # who runs behind whom changes from round to round
            for variant in variants[first:] + variants[:first]:
                run_round(variant, manifest, number)
        baseline = variants[1].costs[1:]  # the first round warms up
        for (policy, padding), variant in zip(VARIANTS, variants, strict=True):
            cost = statistics.median(variant.costs[1:])
            ratio = statistics.median(a / b for a, b in zip(variant.costs[1:], baseline, strict=True))
            print(
                f"{precision} {policy:8} {padding:8} padding {sum(variant.padding) / len(variant.padding):6.1%}  "
                f"CPU ms per second of speech {1e3 * cost:6.2f}  of `seconds`, included: {ratio:.3f}"
            )


if __name__ == "__main__":
    main()
