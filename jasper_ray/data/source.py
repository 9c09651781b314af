"""(micro-batch of a plan, epoch) -> encoded audio, label ids and random draws of its utterances."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from jasper_ray.audio.augment import UtteranceDraws, draw_speeds, draw_utterances
from jasper_ray.audio.decode import resampled_length
from jasper_ray.config.speech import AugmentConfig, FeatureConfig
from jasper_ray.data.fetch_ahead import ShardFetcher
from jasper_ray.data.interference import Interference, InterferenceSource
from jasper_ray.data.manifest import Manifest
from jasper_ray.data.open_shards import OpenShards
from jasper_ray.errors import DataError
from jasper_ray.text.alphabet import Alphabet


@dataclass(slots=True)  # not frozen: that takes twice the time, and an epoch has millions
class EncodedUtterance:
    """Everything that a loader needs to make one utterance of a batch."""

    index: int
    """Row of the manifest."""
    id: str
    audio: memoryview | bytes
    """The encoded file, FLAC or WAV for example."""
    sample_rate_hz: int
    """Rate of the file."""
    num_samples: int
    """Samples per channel in the file."""
    labels: tuple[int, ...]
    draws: UtteranceDraws | None
    """None in evaluation: normal speed, no dither, no masks."""
    interference: Interference | None = None
    """Room, noise and gain, if any."""

    @property
    def speed(self) -> float:
        """Playing speed."""
        return 1.0 if self.draws is None else self.draws.speed

    def waveform_samples(self, sample_rate_hz: int) -> int:
        """Samples of the decoded waveform at that rate and the drawn speed."""
        return resampled_length(self.num_samples, self.sample_rate_hz, sample_rate_hz, self.speed)


class UtteranceSource:
    """Reads utterances of a manifest; safe to use from several threads.

    Args:
        manifest: The utterances; indices are its rows.
        alphabet: Turns transcripts into label ids.
        features: Frame rate and mel bins, which masks are drawn for.
        augment: Random changes, or none for evaluation.
        seed: The run's seed.
        cache: Fetches shards from where they are stored.
        recordings: Fetches those of noises and impulse responses, of which any may be needed at any time; default
            `cache`.

    Raises:
        DataError: `augment` names a dataset of noises or impulse responses that is not there.
    """

    def __init__(
        self,
        manifest: Manifest,
        alphabet: Alphabet,
        features: FeatureConfig,
        augment: AugmentConfig | None,
        seed: int,
        cache: ShardFetcher,
        recordings: ShardFetcher | None = None,
    ) -> None:
        self._manifest = manifest
        self._alphabet = alphabet
        self._features = features
        self._augment = augment
        self._seed = seed
        self._shards = OpenShards(manifest, cache)
        self._interference = None if augment is None else InterferenceSource(augment, seed, recordings or cache)

    def microbatch(self, indices: Sequence[int], epoch: int) -> list[EncodedUtterance]:
        """The utterances of some manifest rows, in that order, with their draws of that epoch.

        Raises:
            DataError: A transcript has characters outside the alphabet, or a shard is damaged; names it.
            StorageError: A shard cannot be fetched.
        """
        rows = np.asarray(indices, dtype=np.int64)
        manifest = self._manifest
        # Columns once for all rows, then plain Python: an array's elements one by one cost 10 times as much.
        columns = [manifest.shard_index[rows], manifest.rows[rows], manifest.sample_rates_hz[rows]]
        columns += [manifest.num_samples[rows]]
        chances = [self._draws(rows, epoch), self._surroundings(rows, epoch)]
        places = zip(rows.tolist(), *(column.tolist() for column in columns), *chances, strict=True)
        return [
            EncodedUtterance(
                index=row,
                id=manifest.ids[row],
                audio=self._shards.shard(manifest.shards[shard]).audio(shard_row),
                sample_rate_hz=sample_rate_hz,
                num_samples=num_samples,
                labels=self._labels(row),
                draws=draws,
                interference=interference,
            )
            for row, shard, shard_row, sample_rate_hz, num_samples, draws, interference in places
        ]

    def batches(self, shares: Sequence[np.ndarray]) -> Iterator[list[EncodedUtterance]]:
        """`microbatch` of each share in turn, while the shards of those to come are fetched.

        Args:
            shares: Manifest rows of each batch.
        """
        index = self._manifest.shard_index
        needed = dict.fromkeys(shard for rows in shares for shard in index[rows].tolist())
        ahead = self._shards.ahead(self._manifest.shards[shard] for shard in needed)
        try:
            for rows in shares:
                for shard in set(index[rows].tolist()):
                    if needed.pop(shard, True) is None:
                        ahead.reach()
                yield self.microbatch(rows.tolist(), 0)
        finally:
            ahead.close()

    def _labels(self, row: int) -> tuple[int, ...]:
        try:
            return tuple(self._alphabet.encode(self._manifest.texts[row]))
        except ValueError as error:
            raise DataError(f"utterance {self._manifest.ids[row]!r}: {error}") from error

    def _draws(self, rows: np.ndarray, epoch: int) -> Sequence[UtteranceDraws | None]:
        if self._augment is None:
            return [None] * len(rows)
        manifest, features = self._manifest, self._features
        speeds = draw_speeds(self._augment, seed=self._seed, epoch=epoch, utterances=rows)
        num_samples = resampled_length(
            manifest.num_samples[rows], manifest.sample_rates_hz[rows], features.sample_rate_hz, speeds
        )
        return draw_utterances(
            self._augment,
            seed=self._seed,
            epoch=epoch,
            utterances=rows,
            speeds=speeds,
            num_frames=features.num_frames(num_samples),
            num_mels=features.num_mels,
        )

    def _surroundings(self, rows: np.ndarray, epoch: int) -> Sequence[Interference | None]:
        return [None] * len(rows) if self._interference is None else self._interference.draw(rows, epoch)

    def forget(self, uri: str) -> None:
        """Let go of an open shard, so that its file can leave the disk; audio handed out before stays readable."""
        self._shards.forget(uri)
