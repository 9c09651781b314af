"""Batches by soundfile, soxr and torch on CPU threads: runs wherever the library runs."""

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from jasper_ray.audio.augment import apply_masks, dither_noise
from jasper_ray.audio.filterbank import Filterbank
from jasper_ray.config.data import LoaderConfig
from jasper_ray.config.speech import FeatureConfig
from jasper_ray.data.batch import Batch, decode_utterance, make_batch
from jasper_ray.data.packing import RowShape
from jasper_ray.data.prefetch import Prefetcher
from jasper_ray.data.source import EncodedUtterance


class TorchLoader:
    """A `BatchLoader` whose threads each make whole utterances, from encoded bytes to features."""

    def __init__(self, features: FeatureConfig, config: LoaderConfig) -> None:
        self._features = features
        self._config = config
        self._filterbank = Filterbank(features)
        self._running: set[_Work] = set()

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the waveforms that features are made of."""
        return self._features.sample_rate_hz

    def load(self, microbatches: Iterable[list[EncodedUtterance]], rows: RowShape | None = None) -> Iterator[Batch]:
        """See `BatchLoader.load`. Work starts when the first batch is asked for."""
        work = _Work(self, iter(microbatches), self._config, rows)
        self._running.add(work)
        try:
            for batch in work.batches:
                yield batch.result()
        except CancelledError:  # `close` was called while a batch was in the making
            return
        finally:
            self._running.discard(work)
            work.close()

    def close(self) -> None:
        """Stop all threads."""
        for work in list(self._running):
            work.close()

    def make_features(self, utterance: EncodedUtterance, *, batch_samples: int = 0) -> Tensor:
        """Features `(F, T)` of one utterance with its draws; `batch_samples` as in `Filterbank`.

        Raises:
            DataError: It cannot be decoded, or has another length than the manifest says; names its id.
        """
        draws, rate_hz = utterance.draws, self._features.sample_rate_hz
        if draws is None:
            waveform = torch.from_numpy(decode_utterance(utterance, sample_rate_hz=rate_hz))
            return self._filterbank(waveform, batch_samples=batch_samples)
        filterbank, num_frames, at_speed = self._filterbank, None, utterance
        if draws.folded and utterance.sample_rate_hz == rate_hz and self._filterbank.can_fold(draws.speed):
            filterbank = self._filterbank.folded(draws.speed)
            num_frames = self._filterbank.num_frames(utterance.waveform_samples(rate_hz))
            at_speed = replace(utterance, draws=draws._replace(speed=1.0))
        waveform = torch.from_numpy(decode_utterance(at_speed, sample_rate_hz=rate_hz))
        noise = torch.from_numpy(dither_noise(len(waveform), draws.noise_offset)) if self._features.dither else None
        features = filterbank(waveform, noise, batch_samples=batch_samples, num_frames=num_frames)
        return apply_masks(features, draws.masks)

    def collate(
        self, utterances: list[EncodedUtterance], features: list[Tensor], rows: RowShape | None = None
    ) -> Batch:
        """Pack features into rows, or pad them to the longest, rounded up to `pad_to_multiple` frames."""
        lengths = [feature.shape[1] for feature in features]
        if rows is not None:
            packed, places = rows.fill(features)
            return make_batch(packed, lengths, utterances, sample_rate_hz=self._features.sample_rate_hz, places=places)
        multiple = self._features.pad_to_multiple
        padded = torch.zeros(len(features), self._features.num_mels, -(-max(lengths) // multiple) * multiple)
        for row, feature in enumerate(features):
            padded[row, :, : lengths[row]] = feature
        return make_batch(padded, lengths, utterances, sample_rate_hz=self._features.sample_rate_hz)


class _Work:
    """The threads behind one call of `load`."""

    def __init__(
        self,
        loader: TorchLoader,
        microbatches: Iterator[list[EncodedUtterance]],
        config: LoaderConfig,
        rows: RowShape | None,
    ) -> None:
        self._loader = loader
        self._rows = rows
        self._pool = single_threaded_pool(config.num_threads, name="features")
        self.batches: Prefetcher[Future[Batch]] = Prefetcher(
            (self._submit(utterances) for utterances in microbatches), depth=config.prefetch_microbatches, name="loader"
        )

    def close(self) -> None:
        """Stop the threads; work that has not begun is dropped."""
        self.batches.close()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, utterances: list[EncodedUtterance]) -> Future[Batch]:
        longest = max(utterance.waveform_samples(self._loader.sample_rate_hz) for utterance in utterances)
        make = partial(self._loader.make_features, batch_samples=longest)
        features = [self._pool.submit(make, utterance) for utterance in utterances]
        # The pool takes work in order, so when this waits for the features, each is done or under way in another
        # thread: it cannot wait for itself.
        return self._pool.submit(self._collate, utterances, features)

    def _collate(self, utterances: list[EncodedUtterance], features: list[Future[Tensor]]) -> Batch:
        return self._loader.collate(utterances, [feature.result() for feature in features], self._rows)


def single_threaded_pool(num_threads: int, *, name: str) -> ThreadPoolExecutor:
    """Threads in which torch does not start threads of its own; the caller's own number of torch threads stays.

    Without this every thread would bring a team of as many threads as the model's own work uses.
    """
    own_threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix=name)
    everyone = threading.Barrier(num_threads)

    def restrict() -> None:
        torch.get_num_threads()  # the first call in a thread takes the default, later ones leave what is set
        torch.set_num_threads(1)
        everyone.wait()  # so that no thread takes two of these and another none

    for started in [pool.submit(restrict) for _ in range(num_threads)]:
        started.result()
    # The number belongs to the thread that sets it, but the latest is also the default of threads yet to come.
    torch.set_num_threads(own_threads)
    return pool
