"""Which utterances of a manifest a run trains on, and why the others are left out."""

from dataclasses import dataclass

import numpy as np

from jasper_ray.audio.decode import resampled_length
from jasper_ray.config.data import DataConfig
from jasper_ray.config.model import ModelConfig
from jasper_ray.config.speech import AugmentConfig, FeatureConfig
from jasper_ray.data.manifest import Manifest
from jasper_ray.errors import DataError
from jasper_ray.model.ctc import required_frames
from jasper_ray.text.alphabet import Alphabet


@dataclass(frozen=True)
class Selection:
    """The training manifest and the counts of what was left out."""

    manifest: Manifest
    too_short: int
    too_long: int
    infeasible: tuple[str, ...]
    """Ids of utterances with fewer encoder frames than their transcript needs."""


def select_training_utterances(
    manifest: Manifest,
    *,
    data: DataConfig,
    features: FeatureConfig,
    augment: AugmentConfig,
    model: ModelConfig,
    alphabet: Alphabet,
) -> Selection:
    """Apply the duration limits and find transcripts that CTC cannot align, before training instead of in it.

    An utterance is judged at the fastest speed that it may be played at.

    Raises:
        DataError: Nothing is left; or there are infeasible utterances and `data.infeasible` is `error`: names them.
    """
    short = manifest.durations_s < data.min_duration_s
    long = manifest.durations_s > data.max_duration_s
    frames = encoder_frames(manifest, features=features, model=model, speed=max(augment.speed_max, 1.0))
    needed = np.array([required_frames(alphabet.encode(text)) for text in manifest.texts], dtype=np.int64)
    infeasible = (frames < needed) & ~short & ~long
    names = tuple(manifest.ids[row] for row in np.flatnonzero(infeasible))
    if names and data.infeasible == "error":
        row = int(np.flatnonzero(infeasible)[0])
        raise DataError(
            f"{len(names)} training utterances are too short for their transcripts, first {names[0]!r}: "
            f"{int(frames[row])} encoder frames at speed {max(augment.speed_max, 1.0)}, "
            f"{int(needed[row])} needed for {manifest.texts[row]!r}. Correct the data, "
            "lower augment.speed_max, or leave them out with data.infeasible=skip"
        )
    kept = np.flatnonzero(~(short | long | infeasible))
    if len(kept) == 0:
        raise DataError(
            f"none of {len(manifest)} training utterances is left: {int(short.sum())} are shorter than "
            f"data.min_duration_s={data.min_duration_s}, {int(long.sum())} longer than "
            f"data.max_duration_s={data.max_duration_s}, {len(names)} too short for their transcripts"
        )
    return Selection(manifest.select(kept), int(short.sum()), int(long.sum()), names)


def encoder_frames(manifest: Manifest, *, features: FeatureConfig, model: ModelConfig, speed: float) -> np.ndarray:
    """`(num_utterances,)` encoder frames of every utterance when played at `speed`."""
    samples = resampled_length(manifest.num_samples, manifest.sample_rates_hz, features.sample_rate_hz, speed)
    frames = features.num_frames(samples)
    for block in model.resolved_blocks:
        frames = (frames - 1) // block.stride + 1
    return np.asarray(frames, dtype=np.int64)
