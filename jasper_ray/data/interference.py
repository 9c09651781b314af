"""Noises and room impulse responses for training utterances, read from datasets prepared with `--audio-only`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jasper_ray.audio.decode import decode_audio, decode_stretch
from jasper_ray.audio.interference import Waveform, draw_interference, louder, reverberated, with_noise
from jasper_ray.config.speech import AugmentConfig
from jasper_ray.data.fetch_ahead import ShardFetcher
from jasper_ray.data.manifest import Manifest, concat_manifests, read_manifest
from jasper_ray.data.open_shards import OpenShards
from jasper_ray.errors import DataError


@dataclass(frozen=True)
class Recording:
    """An encoded noise or impulse response."""

    id: str
    audio: memoryview | bytes


@dataclass(frozen=True)
class Interference:
    """What is done to the waveform of one utterance in one epoch."""

    impulse: Recording | None
    noise: Recording | None
    noise_start: float
    """Where in the noise the utterance begins, as a share of the noise's length; from its end it goes on at its
    beginning."""
    snr_db: float
    gain_db: float

    def on(self, waveform: Waveform, *, sample_rate_hz: int) -> Waveform:
        """The waveform `(N,)` with room, noise and gain.

        Raises:
            DataError: The noise or the impulse response cannot be decoded; names its id.
        """
        if self.impulse is not None:
            try:
                response = decode_audio(self.impulse.audio, sample_rate_hz=sample_rate_hz)
            except ValueError as error:
                raise DataError(f"room impulse response {self.impulse.id!r}: {error}") from error
            waveform = reverberated(waveform, response)
        if self.noise is not None:
            try:
                noise = decode_stretch(
                    self.noise.audio, sample_rate_hz=sample_rate_hz, start=self.noise_start, num_samples=len(waveform)
                )
            except ValueError as error:
                raise DataError(f"noise {self.noise.id!r}: {error}") from error
            waveform = with_noise(waveform, noise, self.snr_db)
        return louder(waveform, self.gain_db)


class InterferenceSource:
    """Draws interference for utterances and reads what it needs; safe to use from several threads.

    Args:
        config: What is drawn, and from which datasets.
        seed: The run's seed.
        cache: Fetches shards from where they are stored.

    Raises:
        DataError: `augment.noise` or `augment.reverb` names what is not a prepared dataset.
    """

    def __init__(self, config: AugmentConfig, seed: int, cache: ShardFetcher) -> None:
        self._config = config
        self._seed = seed
        self._impulses = _Library(config.reverb, cache, "augment.reverb")
        self._noises = _Library(config.noise, cache, "augment.noise")

    def draw(self, utterances: NDArray[np.int64], epoch: int) -> list[Interference | None]:
        """Interference for manifest rows in an epoch; none where nothing changes."""
        if not (len(self._impulses) or len(self._noises) or self._config.gain_min_db or self._config.gain_max_db):
            return [None] * len(utterances)
        all_draws = draw_interference(
            self._config,
            seed=self._seed,
            epoch=epoch,
            utterances=utterances,
            num_impulses=len(self._impulses),
            num_noises=len(self._noises),
        )
        return [
            None
            if draws.impulse is None and draws.noise is None and draws.gain_db == 0
            else Interference(
                self._impulses.recording(draws.impulse),
                self._noises.recording(draws.noise),
                draws.noise_start,
                draws.snr_db,
                draws.gain_db,
            )
            for draws in all_draws
        ]


class _Library:
    """Recordings of several datasets by number."""

    def __init__(self, datasets: Sequence[str], cache: ShardFetcher, key: str) -> None:
        self._manifest = read_recordings(datasets, key=key)
        self._shards = OpenShards(self._manifest, cache) if self._manifest else None

    def __len__(self) -> int:
        return len(self._manifest) if self._manifest else 0

    def recording(self, number: int | None) -> Recording | None:
        if number is None:
            return None
        assert self._manifest is not None and self._shards is not None, "a recording was drawn from nothing"
        row = self._manifest.utterance(number)
        return Recording(row.id, self._shards.shard(row.shard).audio(row.row))


def read_recordings(datasets: Sequence[str], *, key: str) -> Manifest | None:
    """The manifests of datasets of recordings as one; none if there are no datasets.

    Raises:
        DataError: One is not a dataset, or an id is in two of them.
    """
    if not datasets:
        return None
    try:
        return concat_manifests([read_manifest(dataset) for dataset in datasets])
    except DataError as error:
        raise DataError(f"{key}: {error}. Recordings without transcripts are prepared with --audio-only") from error
