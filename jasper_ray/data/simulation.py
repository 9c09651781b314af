"""What a plan would cost on some number of workers, and a manifest to try it on when there is no corpus.

Time is counted in padded seconds of audio, which is what an encoder of convolutions takes time for. Nothing is modelled
but that: the plans are those of training.
"""

from dataclasses import dataclass

import numpy as np

from jasper_ray.audio.augment import uniform
from jasper_ray.config.data import BatchingConfig
from jasper_ray.config.speech import FeatureConfig
from jasper_ray.data.epoch_plan import EpochPlan
from jasper_ray.data.manifest import SHARDS_FOLDER, Manifest, write_manifest
from jasper_ray.data.packing import RowShape
from jasper_ray.storage import object_store

SIMULATED_RATE_HZ = 16_000
UTTERANCES_PER_SHARD = 1500  # 256 MB of FLAC
DURATION_STREAM, NVIDIA_ORDER_STREAM = 301, 302

# Shares of LibriSpeech-960's utterances that last no longer than so many seconds, straight lines between: quartiles
# 11.0, 14.0 and 15.0 s, mean 12.55 s. Fitted to quartiles, not to the manifest.
LIBRISPEECH_SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.98, 1.0)
LIBRISPEECH_SECONDS = (1.3, 7.4, 11.0, 14.0, 15.0, 16.4, 21.9)


@dataclass(frozen=True)
class PlanFigures:
    """What an epoch costs."""

    steps: int
    utterances_per_step: float
    padded_hours: float
    """All micro-batches with their padding."""
    padding_share: float
    """Of the padded hours, those that are no speech."""
    straggler_share: float
    """Of the workers' time, that which they wait for the slowest of a step."""
    efficiency: float
    """Speech over workers times the slowest of each step: the share of the machine that does useful work."""


def librispeech_like_durations(count: int, *, seed: int) -> np.ndarray:
    """`(count,)` seconds, distributed as in LibriSpeech-960 (`LIBRISPEECH_SHARES`)."""
    shares = uniform(seed, DURATION_STREAM, np.arange(count))
    seconds = np.interp(shares, LIBRISPEECH_SHARES, LIBRISPEECH_SECONDS)
    return np.asarray(np.floor(seconds * SIMULATED_RATE_HZ) / SIMULATED_RATE_HZ)


def write_simulated_manifest(dataset: str, durations_s: np.ndarray) -> None:
    """A manifest as `jobs.prepare` writes it, of utterances and shards that are not there.

    Args:
        dataset: Folder, local or s3://.
        durations_s: Seconds of each utterance.
    """
    count = len(durations_s)
    num_shards = -(-count // UTTERANCES_PER_SHARD)
    manifest = Manifest(
        ids=[f"simulated-{number:09d}" for number in range(count)],
        texts=[""] * count,
        speakers=[""] * count,
        durations_s=durations_s,
        num_samples=np.round(durations_s * SIMULATED_RATE_HZ).astype(np.int64),
        sample_rates_hz=np.full(count, SIMULATED_RATE_HZ, dtype=np.int64),
        shards=[object_store.join(dataset, SHARDS_FOLDER, f"{number:05d}.arrow") for number in range(num_shards)],
        shard_index=np.arange(count) // UTTERANCES_PER_SHARD,
        rows=np.arange(count) % UTTERANCES_PER_SHARD,
    )
    write_manifest(dataset, manifest)


def microbatch_seconds(
    plan: EpochPlan, durations_s: np.ndarray, *, batching: BatchingConfig, features: FeatureConfig
) -> np.ndarray:
    """`(num_steps, microbatches_per_step)` seconds of audio of each micro-batch, padding included; 0 if it is empty."""
    sizes = np.diff(plan.bounds)
    taken = sizes > 0
    seconds = np.zeros(len(sizes))
    if batching.policy == "packed":
        shape = RowShape.of_config(batching, features)
        seconds[taken] = shape.num_rows * shape.num_frames * features.hop_s
    else:
        longest_s = np.maximum.reduceat(durations_s[plan.rows], plan.bounds[:-1][taken])
        frames = np.ceil(np.round(longest_s / features.hop_s, 6))
        multiple = features.pad_to_multiple
        seconds[taken] = sizes[taken] * np.ceil(frames / multiple) * multiple * features.hop_s
    return seconds.reshape(-1, plan.microbatches_per_step)


def plan_figures(
    plan: EpochPlan, durations_s: np.ndarray, *, batching: BatchingConfig, features: FeatureConfig, num_workers: int
) -> PlanFigures:
    """What an epoch costs on a number of workers, which wait for each other at the end of every step.

    Args:
        plan: The epoch.
        durations_s: `(num_utterances,)` seconds as the model hears them in that epoch.
        batching: What the plan was made with.
        features: Frame rate and padding.
        num_workers: Workers that share out every step.
    """
    seconds = microbatch_seconds(plan, durations_s, batching=batching, features=features)
    idle = -seconds.shape[1] % num_workers
    of_workers = np.pad(seconds, ((0, 0), (0, idle))).reshape(len(seconds), -1, num_workers).sum(axis=1)
    useful_s, padded_s = float(durations_s[plan.rows].sum()), float(seconds.sum())
    machine_s = num_workers * float(of_workers.max(axis=1).sum())
    return PlanFigures(
        steps=plan.num_steps,
        utterances_per_step=len(plan.rows) / plan.num_steps,
        padded_hours=padded_s / 3600,
        padding_share=1 - useful_s / padded_s,
        straggler_share=max(0.0, 1 - padded_s / machine_s),
        efficiency=useful_s / machine_s,
    )


def plan_like_nvidia(
    num_utterances: int, *, seed: int, epoch: int, batch_size: int, num_workers: int
) -> tuple[EpochPlan, int]:
    """NVIDIA's Jasper: random batches of one size, one per worker and step; what does not fill a step is dropped.

    Returns:
        The epoch, and how many utterances it leaves out.
    """
    order = np.argsort(uniform(seed, NVIDIA_ORDER_STREAM, epoch, np.arange(num_utterances)), kind="stable")
    per_step = batch_size * num_workers
    kept = num_utterances // per_step * per_step
    return EpochPlan(order[:kept], np.arange(0, kept + 1, batch_size), num_workers), num_utterances - kept
