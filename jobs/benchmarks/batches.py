"""Micro-batches of noise and letters for the training benchmark: padded to one duration, or packed into rows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from jasper_ray.config.data import BatchingConfig
from jasper_ray.config.speech import FeatureConfig
from jasper_ray.data.batch import Batch
from jasper_ray.data.packing import RowShape
from jasper_ray.data.plan import plan_epoch
from jasper_ray.data.simulation import librispeech_like_durations

LETTERS_PER_S = 14
LONGEST_S = 16.7
"""Longer utterances are left out, as in NVIDIA's recipe."""
POOL = 4096
"""Utterances that rows are packed from, as many as the plan of a corpus would have at hand."""


@dataclass(frozen=True)
class Shape:
    """What a device is given in a step."""

    batch_size: int
    """Utterances; if packed, how many of `seconds` the rows could hold."""
    seconds: float
    """Length that every utterance is padded to, or the mean of those that are packed."""
    packed: bool = False


def make_batch(shape: Shape, features: FeatureConfig, *, blank: int, rank: int = 0) -> Batch:
    """Other noise and letters on every rank; the utterances of a packed batch last as LibriSpeech's do."""
    generator = torch.Generator().manual_seed(rank)
    if shape.packed:
        return _packed(shape, features, blank=blank, generator=generator, seed=rank)
    frames = round(shape.seconds / features.hop_s)
    padded = -(-frames // features.pad_to_multiple) * features.pad_to_multiple
    noise = torch.randn(shape.batch_size, features.num_mels, padded, generator=generator)
    noise[..., frames:] = 0
    num_labels = max(1, int(LETTERS_PER_S * shape.seconds))
    return Batch(
        features=noise,
        feature_lengths=torch.full((shape.batch_size,), frames),
        labels=torch.randint(0, blank, (shape.batch_size, num_labels), generator=generator),
        label_lengths=torch.full((shape.batch_size,), num_labels),
        indices=tuple(range(shape.batch_size)),
        audio_s=shape.batch_size * shape.seconds,
        longest=frames,
    )


def _packed(shape: Shape, features: FeatureConfig, *, blank: int, generator: torch.Generator, seed: int) -> Batch:
    """A micro-batch of the plan of utterances like LibriSpeech's, scaled to the mean that is asked for."""
    durations_s = librispeech_like_durations(POOL, seed=seed)
    durations_s = durations_s[durations_s <= LONGEST_S] * (shape.seconds / durations_s[durations_s <= LONGEST_S].mean())
    batching = BatchingConfig(policy="packed", microbatches_per_step=1)
    longest_s = float(durations_s.max())
    total_s = shape.batch_size * (shape.seconds + batching.gap_seconds)
    row_s = max(longest_s, min(batching.row_seconds, total_s / 4))
    num_rows = max(1, round(total_s / row_s))
    batching = batching.model_copy(update={"row_seconds": row_s, "rows_per_microbatch": num_rows})
    plan = plan_epoch(durations_s, seed=seed, epoch=0, batching=batching, hop_s=features.hop_s)
    lasting_s = durations_s[plan.microbatch(0, 0)].tolist()
    noise = [
        torch.randn(features.num_mels, max(1, int(duration_s / features.hop_s)), generator=generator)
        for duration_s in lasting_s
    ]
    rows, places = RowShape.of_config(batching, features).fill(noise)
    lengths = [int(LETTERS_PER_S * duration_s) for duration_s in lasting_s]
    labels: Tensor = torch.randint(0, blank, (len(noise), max(lengths)), generator=generator)
    frames = [len(one[0]) for one in noise]
    return Batch(
        features=rows,
        feature_lengths=torch.tensor(frames),
        labels=labels,
        label_lengths=torch.tensor(lengths),
        indices=tuple(range(len(noise))),
        audio_s=sum(lasting_s),
        places=torch.tensor(places),
        longest=max(frames),
    )
