"""Batches by NVIDIA DALI: decoding on the CPU, features on the CPU or on the GPU.

The only file that imports DALI. Features are those of the torch loader, from the same draws; two implementations round
differently, which shows where a mel bin holds next to nothing (1e-10 of the loudest), since the logarithm and the
normalisation blow such bins up. Measured over normalised features (DALI 2.4, CPU operators, 2026-11):

    audio                                            mean difference   largest
    LibriSpeech, all 260 utterances, evaluation      4e-7              7e-3 (all but 4 in a million: 5e-4)
    LibriSpeech, speed 0.85 to 1.15, dither          9e-7              8e-3
    FSDD, 8 kHz resampled to 16 kHz, dither          7e-6              2e-3
    FSDD, 8 kHz resampled to 16 kHz, evaluation      3e-4              1e-1 (above 4 kHz there is only rounding)

Rate and speed are changed by soxr on host threads, as in the torch loader, and not by DALI's `audio_resample`: that
operator leaves in what lies above the new half rate. A 10 kHz tone at 44.1 kHz came out of it at 16 kHz with all its
strength, as a tone of 6 kHz (soxr: less than 1e-4 of it). With it the features of FSDD differed by 0.11 to 0.17 on
average, of a 44.1 kHz clip by 0.11, of LibriSpeech at speed 0.9 by 0.01, and single ones by 3 to 12 deviations.
soxr is also 4.7 times faster (11,431 against 2,411 times real time). So: audio that is at the right rate and speed is
decoded by DALI; what soxr has made reaches DALI as WAV of 32-bit floats, which costs one copy.

`device: gpu` runs everything after decoding and dither on the process's current CUDA device. It is the same graph with
one transfer in it; it has not been run on a GPU yet.
"""

import math
import struct
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from nvidia.dali import fn, types
from nvidia.dali import math as dali_math
from nvidia.dali.pipeline import Pipeline
from torch import Tensor

from jasper_ray.audio.augment import Mask, dither_noise
from jasper_ray.audio.filterbank import STD_FLOOR, Filterbank, padded_window
from jasper_ray.config.data import LoaderConfig
from jasper_ray.config.speech import FeatureConfig
from jasper_ray.data.batch import Batch, check_length, decode_utterance, make_batch
from jasper_ray.data.packing import RowShape
from jasper_ray.data.prefetch import Prefetcher
from jasper_ray.data.source import EncodedUtterance
from jasper_ray.data.torch_loader import single_threaded_pool
from jasper_ray.errors import DataError

# What DALI's own decoder reads the same as libsndfile does; the rest (MP3 for one) is decoded on host threads.
DALI_SIGNATURES = (b"RIFF", b"fLaC")
NO_MASK = Mask(0, 0, 0, 0)


class DaliLoader:
    """A `BatchLoader` on a DALI pipeline."""

    def __init__(self, features: FeatureConfig, config: LoaderConfig) -> None:
        self._features = features
        self._config = config
        self._graph = FeatureGraph(features, config)
        self._running: set[_Work] = set()

    def load(self, microbatches: Iterable[list[EncodedUtterance]], rows: RowShape | None = None) -> Iterator[Batch]:
        """See `BatchLoader.load`. Work starts when the first batch is asked for."""
        work = _Work(self._features, self._config, self._graph, iter(microbatches), rows)
        self._running.add(work)
        try:
            for batch in work.batches:  # noqa: UP028 - `yield from` would close it before the thread that feeds it
                yield batch
        except CancelledError:  # `close` was called while a batch was in the making
            return
        finally:
            self._running.discard(work)
            work.close()

    def close(self) -> None:
        """Stop all threads and free the pipeline."""
        for work in list(self._running):
            work.close()
        self._graph.close()


@dataclass(frozen=True)
class _Prepared:
    """A micro-batch and its audio at the right rate and speed, in the making."""

    utterances: list[EncodedUtterance]
    audio: list[Future[NDArray[np.uint8]]]


class _Work:
    """The threads behind one call of `load`: one reads and hands out decoding, one runs DALI."""

    def __init__(
        self,
        features: FeatureConfig,
        config: LoaderConfig,
        graph: "FeatureGraph",
        microbatches: Iterator[list[EncodedUtterance]],
        rows: RowShape | None,
    ) -> None:
        self._rows = rows
        self._sample_rate_hz = features.sample_rate_hz
        self._graph = graph
        self._pool = single_threaded_pool(config.num_threads, name="resampling")
        # One micro-batch is resampled while another is in DALI; the rest of the depth are finished batches.
        self._prepared = Prefetcher(
            (self._prepare(utterances) for utterances in microbatches), depth=1, name="dali-reader"
        )
        depth = max(1, config.prefetch_microbatches - 1)
        self.batches = Prefetcher((self._finish(item) for item in self._prepared), depth=depth, name="dali")

    def close(self) -> None:
        """Stop the threads; work that has not begun is dropped."""
        self._prepared.close()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.batches.close()

    def _prepare(self, utterances: list[EncodedUtterance]) -> _Prepared:
        rate_hz = self._sample_rate_hz
        audio = [self._pool.submit(encoded_at_rate, utterance, rate_hz) for utterance in utterances]
        return _Prepared(utterances, audio)

    def _finish(self, prepared: _Prepared) -> Batch:
        return self._graph.run(prepared.utterances, [audio.result() for audio in prepared.audio], self._rows)


def encoded_at_rate(utterance: EncodedUtterance, sample_rate_hz: int) -> NDArray[np.uint8]:
    """Bytes of an audio file as DALI takes it: the utterance's own, or WAV of it at the right rate, speed, in its room.

    Raises:
        DataError: It cannot be decoded; names its id.
    """
    as_it_is = utterance.sample_rate_hz * utterance.speed == sample_rate_hz and utterance.interference is None
    if as_it_is and bytes(utterance.audio[:4]) in DALI_SIGNATURES:
        return np.frombuffer(utterance.audio, np.uint8)
    waveform = decode_utterance(utterance, sample_rate_hz=sample_rate_hz)
    return float_wav(waveform, sample_rate_hz)


def float_wav(waveform: NDArray[np.float32], sample_rate_hz: int) -> NDArray[np.uint8]:
    """A WAV file of 32-bit floats, one channel."""
    num_bytes = waveform.nbytes
    head = struct.pack("<4sI4s", b"RIFF", 36 + num_bytes, b"WAVE")
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 3, 1, sample_rate_hz, sample_rate_hz * 4, 4, 32)
    data = struct.pack("<4sI", b"data", num_bytes)
    header = np.frombuffer(head + form + data, np.uint8)
    return np.concatenate([header, np.ascontiguousarray(waveform).view(np.uint8)])


class FeatureGraph:
    """DALI pipelines from encoded audio to padded features; made when first needed, used by one thread at a time."""

    def __init__(self, features: FeatureConfig, config: LoaderConfig) -> None:
        self._features = features
        self._config = config
        self._filterbank = Filterbank(features)
        self._pipelines: dict[tuple[bool, int], Pipeline] = {}
        self._max_batch = 0
        self._lock = threading.Lock()

    def close(self) -> None:
        """Free the pipelines."""
        with self._lock:
            self._pipelines.clear()

    def run(
        self, utterances: list[EncodedUtterance], audio: list[NDArray[np.uint8]], rows: RowShape | None = None
    ) -> Batch:
        """A batch of utterances whose `audio` is at the right rate and speed, packed into rows if there is a shape.

        Raises:
            DataError: DALI cannot decode an utterance, it has another length than the manifest says, or samples that
                are not finite; names its id.
        """
        rate_hz = self._features.sample_rate_hz
        lengths = [utterance.waveform_samples(rate_hz) for utterance in utterances]
        num_frames = [self._filterbank.num_frames(length) for length in lengths]
        with self._lock:
            features, decoded_lengths, rates_hz, energies = self._run(utterances, audio, lengths, num_frames)
        for utterance, length, decoded_hz, energy in zip(utterances, decoded_lengths, rates_hz, energies, strict=True):
            if decoded_hz != rate_hz:
                raise DataError(
                    f"utterance {utterance.id!r}: its file has a rate of {decoded_hz:g} Hz, its manifest row says "
                    f"{utterance.sample_rate_hz}: shard and manifest do not belong together, prepare the dataset again"
                )
            check_length(utterance, length, sample_rate_hz=rate_hz)
            if not math.isfinite(energy):
                raise DataError(f"utterance {utterance.id!r}: samples are NaN, infinite or absurdly large")
        if rows is None:
            return make_batch(features, num_frames, utterances, sample_rate_hz=rate_hz)
        packed, places = rows.fill([row[:, :length] for row, length in zip(features, num_frames, strict=True)])
        return make_batch(packed, num_frames, utterances, sample_rate_hz=rate_hz, places=places)

    def _run(
        self,
        utterances: list[EncodedUtterance],
        audio: list[NDArray[np.uint8]],
        lengths: list[int],
        num_frames: list[int],
    ) -> tuple[Tensor, list[int], list[float], list[float]]:
        """Padded features `(B, F, T)`; lengths, rates and energies of the decoded waveforms."""
        dithered = self._features.dither > 0 and any(utterance.draws is not None for utterance in utterances)
        pipeline = self._pipeline(dithered, len(utterances))
        anchors, shapes = _mask_inputs(utterances)
        pipeline.feed_input("audio", audio)
        longest = max(lengths)
        pipeline.feed_input("num_padded", [np.int32(self._filterbank.extended_length(n, longest)) for n in lengths])
        pipeline.feed_input("num_frames", [np.int32(n) for n in num_frames])
        pipeline.feed_input("mask_anchors", anchors)
        pipeline.feed_input("mask_shapes", shapes)
        if dithered:
            pipeline.feed_input("noise", [_noise(u, n) for u, n in zip(utterances, lengths, strict=True)])
        try:
            features, decoded_lengths, rates_hz, energies = pipeline.run()
        except RuntimeError as error:
            self._pipelines.clear()  # DALI does not use a pipeline again after an error
            raise DataError(self._explain(utterances, error)) from error
        return (
            # A copy: DALI writes the next batch into the same memory.
            torch.utils.dlpack.from_dlpack(features.as_tensor()).clone(),
            [int(np.asarray(length)[0]) for length in decoded_lengths],
            [float(np.asarray(rate_hz)) for rate_hz in rates_hz],
            [float(np.asarray(energy)) for energy in energies],
        )

    def _explain(self, utterances: list[EncodedUtterance], error: RuntimeError) -> str:
        """Which utterance made DALI fail: it does not say, so each is decoded once more."""
        for utterance in utterances:
            try:
                decode_utterance(utterance, sample_rate_hz=self._features.sample_rate_hz)
            except DataError as cause:
                return str(cause)
        ids = ", ".join(repr(utterance.id) for utterance in utterances)
        return f"DALI failed on a micro-batch of the utterances {ids}: {error}"

    def _pipeline(self, dithered: bool, num_utterances: int) -> Pipeline:
        """A pipeline with room for so many utterances; the room only grows, to a power of two."""
        self._max_batch = max(self._max_batch, 1 << (num_utterances - 1).bit_length())
        key = (dithered, self._max_batch)
        if key not in self._pipelines:
            self._pipelines = {k: pipeline for k, pipeline in self._pipelines.items() if k[1] == self._max_batch}
            self._pipelines[key] = self._build(dithered)
        return self._pipelines[key]

    def _build(self, dithered: bool) -> Pipeline:
        on_gpu = self._config.device == "gpu"
        # A depth of 1: each run is fed and fetched by itself, `Prefetcher` is what works ahead.
        pipeline = Pipeline(
            batch_size=self._max_batch,
            num_threads=self._config.num_threads,
            device_id=torch.cuda.current_device() if on_gpu else None,
            prefetch_queue_depth=1,
        )
        with pipeline:
            encoded = fn.external_source(name="audio", dtype=types.UINT8, ndim=1)
            num_frames = fn.external_source(name="num_frames", dtype=types.INT32, ndim=0)
            waveform, rate_hz = fn.decoders.audio(encoded, dtype=types.FLOAT, downmix=True)
            decoded_length = waveform.shape()
            energy = fn.reductions.sum(waveform * waveform)
            if dithered:
                noise = fn.external_source(name="noise", dtype=types.FLOAT, ndim=1)
                waveform = waveform + self._features.dither * noise
            log_mel = self._log_mel(self._on_device(waveform), num_frames)
            features = self._masked_and_padded(self._normalized(log_mel, num_frames))
            pipeline.set_outputs(features, decoded_length, rate_hz, energy)
        pipeline.build()
        return pipeline

    def _on_device(self, node: Any) -> Any:
        return node.gpu() if self._config.device == "gpu" else node

    def _log_mel(self, waveform: Any, num_frames: Any) -> Any:
        """The filterbank's steps as DALI operators."""
        config = self._features
        num_padded = fn.external_source(name="num_padded", dtype=types.INT32, ndim=0)
        waveform = fn.slice(waveform, 0, num_padded, axes=[0], out_of_bounds_policy="pad", fill_values=0.0)
        if config.preemphasis:
            # Zero border: the first sample stays as it is.
            border = "clamp" if config.flavour == "nvidia_dali" else "zero"
            waveform = fn.preemphasis_filter(waveform, preemph_coeff=config.preemphasis, border=border)
        power = fn.spectrogram(
            waveform,
            nfft=config.fft_size,
            window_length=config.fft_size,
            window_step=config.hop_samples,
            window_fn=padded_window(config).tolist(),
            center_windows=True,
            reflect_padding=True,
            power=2,
        )
        mel = fn.mel_filter_bank(
            power,
            sample_rate=float(config.sample_rate_hz),
            nfilter=config.num_mels,
            freq_low=config.low_hz,
            freq_high=config.high_hz or config.sample_rate_hz / 2,
            mel_formula="slaney",
            normalize=True,
        )
        floored = dali_math.max(mel, config.log_floor) if config.flavour == "nvidia_dali" else mel + config.log_floor
        return fn.slice(dali_math.log(floored), 0, num_frames, axes=[1])

    def _normalized(self, log_mel: Any, num_frames: Any) -> Any:
        if self._features.normalize == "none":
            return log_mel
        axes = [1] if self._features.normalize == "per_feature" else [0, 1]
        centred = log_mel - fn.reductions.mean(log_mel, axes=axes, keep_dims=True)
        centred = centred - fn.reductions.mean(centred, axes=axes, keep_dims=True)  # for the rounding of the mean
        squares = fn.reductions.sum(centred * centred, axes=axes, keep_dims=True)
        num_values = num_frames * (1.0 if axes == [1] else float(self._features.num_mels))
        if self._features.flavour == "nvidia_dali":
            std = dali_math.sqrt(squares / self._on_device(num_values))
            return centred * ((std > STD_FLOOR) / dali_math.max(std, STD_FLOOR))
        # One frame alone: its deviation is 0, not 0 / 0.
        divisor = self._on_device(dali_math.max(num_values - 1.0, 1.0))
        std = dali_math.sqrt(squares / divisor)
        return centred / (std + STD_FLOOR)

    def _masked_and_padded(self, features: Any) -> Any:
        anchors = fn.external_source(name="mask_anchors", dtype=types.FLOAT, ndim=1)
        shapes = fn.external_source(name="mask_shapes", dtype=types.FLOAT, ndim=1)
        features = fn.erase(features, anchor=anchors, shape=shapes, axes=[0, 1], fill_value=0)
        return fn.pad(features, axes=[1], fill_value=0, align=self._features.pad_to_multiple)


def _noise(utterance: EncodedUtterance, num_samples: int) -> NDArray[np.float32]:
    if utterance.draws is None:
        return np.zeros(num_samples, np.float32)
    return dither_noise(num_samples, utterance.draws.noise_offset)


def _mask_inputs(
    utterances: list[EncodedUtterance],
) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """First corners and sizes of each utterance's masks, (bin, frame) after (bin, frame)."""
    anchors, shapes = [], []
    for utterance in utterances:
        masks = (utterance.draws.masks if utterance.draws else ()) or (NO_MASK,)
        anchors.append(np.array([(m.first_bin, m.first_frame) for m in masks], np.float32).ravel())
        shapes.append(np.array([(m.num_bins, m.num_frames) for m in masks], np.float32).ravel())
    return anchors, shapes
