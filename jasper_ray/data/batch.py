"""What a loader gives to training and evaluation."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jasper_ray.audio.decode import decode_audio
from jasper_ray.data.packing import RowShape
from jasper_ray.data.source import EncodedUtterance
from jasper_ray.errors import DataError


@dataclass(frozen=True)
class Batch:
    """The utterances of one micro-batch: features and labels, padded with zeros, and their true lengths.

    Utterance i lies alone in row i of the features, or, in a packed batch, where `places` says.
    """

    features: Tensor
    """`(R, F, T)` float32, T a multiple of `features.pad_to_multiple`; R = B rows unless packed."""
    feature_lengths: Tensor
    """`(B,)` int64 feature frames."""
    labels: Tensor
    """`(B, U)` int64."""
    label_lengths: Tensor
    """`(B,)` int64."""
    indices: tuple[int, ...]
    """Manifest rows."""
    audio_s: float
    """Seconds of audio as the model hears them, without padding."""
    places: Tensor | None = None
    """`(B, 2)` int64 row and first feature frame of each utterance of a packed batch."""
    longest: int | None = None
    """The largest of `feature_lengths`, known without asking the device."""

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch with its tensors on a device."""
        return replace(
            self,
            features=self.features.to(device, non_blocking=True),
            feature_lengths=self.feature_lengths.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            label_lengths=self.label_lengths.to(device, non_blocking=True),
            places=None if self.places is None else self.places.to(device, non_blocking=True),
        )


def pinned(batch: Batch) -> Batch:
    """The same batch in memory that a GPU copies from without the host; as it is where there is no GPU."""
    if not torch.cuda.is_available() or batch.features.device.type != "cpu":
        return batch
    return replace(
        batch,
        features=batch.features.pin_memory(),
        feature_lengths=batch.feature_lengths.pin_memory(),
        labels=batch.labels.pin_memory(),
        label_lengths=batch.label_lengths.pin_memory(),
        places=None if batch.places is None else batch.places.pin_memory(),
    )


class BatchLoader(Protocol):
    """Turns encoded utterances into batches, ahead of whoever takes them."""

    def load(self, microbatches: Iterable[list[EncodedUtterance]], rows: RowShape | None = None) -> Iterator[Batch]:
        """Batches of micro-batches, in the same order: packed into such rows, or each utterance in a row of its own.

        `microbatches` is read in another thread, no further ahead than the loader prefetches. Closing the iterator
        early, or the loader, stops all threads.

        Raises:
            DataError: An utterance cannot be made; names its id. A micro-batch does not fit into the rows.
        """
        ...

    def close(self) -> None:
        """Stop every thread and let go of memory; iterators still in use end."""
        ...


def make_batch(
    features: Tensor,
    feature_lengths: Sequence[int],
    utterances: Sequence[EncodedUtterance],
    *,
    sample_rate_hz: int,
    places: Sequence[tuple[int, int]] | None = None,
) -> Batch:
    """A batch of padded features `(R, F, T)` and the labels of their utterances."""
    label_lengths = [len(utterance.labels) for utterance in utterances]
    labels = torch.zeros(len(utterances), max(label_lengths), dtype=torch.int64)
    for row, utterance in enumerate(utterances):
        labels[row, : len(utterance.labels)] = torch.tensor(utterance.labels, dtype=torch.int64)
    num_samples = sum(utterance.waveform_samples(sample_rate_hz) for utterance in utterances)
    batch = Batch(
        features=features,
        feature_lengths=torch.tensor(feature_lengths, dtype=torch.int64),
        labels=labels,
        label_lengths=torch.tensor(label_lengths, dtype=torch.int64),
        indices=tuple(utterance.index for utterance in utterances),
        audio_s=num_samples / sample_rate_hz,
        places=None if places is None else torch.tensor(places, dtype=torch.int64),
        longest=max(feature_lengths),
    )
    return pinned(batch)


def decode_utterance(utterance: EncodedUtterance, *, sample_rate_hz: int) -> NDArray[np.float32]:
    """The waveform `(N,)` of an utterance at a rate, its drawn speed and in its drawn surroundings.

    Raises:
        DataError: It, its noise or its room cannot be decoded, or it has another length than its manifest row says;
            names its id.
    """
    try:
        waveform = decode_audio(utterance.audio, sample_rate_hz=sample_rate_hz, speed=utterance.speed)
    except ValueError as error:
        raise DataError(f"utterance {utterance.id!r}: {error}") from error
    check_length(utterance, len(waveform), sample_rate_hz=sample_rate_hz)
    if utterance.interference is None:
        return waveform
    try:
        return utterance.interference.on(waveform, sample_rate_hz=sample_rate_hz)
    except DataError as error:
        raise DataError(f"utterance {utterance.id!r}: {error}") from error


def check_length(utterance: EncodedUtterance, num_samples: int, *, sample_rate_hz: int) -> None:
    """Refuse a decoded waveform of another length than its manifest row, which the plan and the draws relied on."""
    expected = utterance.waveform_samples(sample_rate_hz)
    if num_samples != expected:
        raise DataError(
            f"utterance {utterance.id!r}: decoded to {num_samples} samples at {sample_rate_hz} Hz, but its manifest "
            f"row ({utterance.num_samples} samples at {utterance.sample_rate_hz} Hz, speed {utterance.speed:.4g}) "
            f"promises {expected}: shard and manifest do not belong together, prepare the dataset again"
        )
