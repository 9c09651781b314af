"""Waveforms in, transcripts out: the one way from audio to text, whoever asks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from jasper_ray.audio.batch_filterbank import BatchFilterbank
from jasper_ray.audio.filterbank import Filterbank
from jasper_ray.decoding.alignment import WordSpan
from jasper_ray.decoding.beam import Hypothesis
from jasper_ray.decoding.confidence import Calibration, read_calibrations
from jasper_ray.decoding.decoder import split
from jasper_ray.decoding.timing import greedy_words
from jasper_ray.inference.engine import Engine, Precision
from jasper_ray.inference.long_audio import LONG_AUDIO_S, Compute, LongAudio, Piece, Source, Statistics, waveform_source
from jasper_ray.model.bundle import Bundle, load_bundle
from jasper_ray.model.ctc import greedy_decode

DEFAULT_BATCH_SECONDS = 160.0


@dataclass(frozen=True)
class Transcript:
    """What was said in a waveform."""

    text: str
    duration_s: float
    confidence: float
    """Mean probability of the frames that emit a label, from 0 to 1; 0 where nothing was said."""
    words: tuple[WordSpan, ...] = ()
    """The words of the text, and when they were said."""
    alternatives: tuple[Hypothesis, ...] = ()
    """What a beam search found, best first, if more than one was asked for."""
    log_probs: np.ndarray | None = field(default=None, repr=False, compare=False)
    """`(T, V)` natural log-probabilities, if they were asked for."""


class Transcriber:
    """Features, batches, model and greedy decoding.

    Args:
        bundle: The model and how it hears.
        device: Where the model runs.
        precision: Its arithmetic.
        batch_seconds: Bound on count times longest of a batch; it changes the speed, never a transcript.
        calibration: Of confidences and times of greedily decoded words (`python -m jobs.calibrate`).
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "cpu",
        precision: Precision = "fp32",
        batch_seconds: float = DEFAULT_BATCH_SECONDS,
        calibration: Calibration | None = None,
    ) -> None:
        self.config = bundle.config
        self.alphabet = bundle.alphabet
        self._calibration = calibration
        self._engine = Engine(bundle, device=device, precision=precision)
        self._filterbank = Filterbank(bundle.config.features)
        on_gpu = torch.device(device).type != "cpu"
        self._on_gpu = BatchFilterbank(bundle.config.features, device=torch.device(device)) if on_gpu else None
        self._batch_seconds = batch_seconds
        self._long = LongAudio(bundle.config, self._engine, self._filterbank, bundle.alphabet)
        self.frame_s = bundle.config.features.hop_s * bundle.config.model.total_stride

    @classmethod
    def from_bundle(cls, uri: str, *, device: str = "cpu", precision: Precision = "fp32") -> "Transcriber":
        """Load a bundle from a folder or an object store.

        Raises:
            BundleError: There is no whole bundle at `uri`.
            DataError: Its calibration of confidences cannot be read.
        """
        calibration = read_calibrations(uri).get("greedy")
        return cls(load_bundle(uri), device=device, precision=precision, calibration=calibration)

    @property
    def sample_rate_hz(self) -> int:
        """The rate that waveforms must have."""
        return self.config.features.sample_rate_hz

    def warm_up(self) -> None:
        """Do once what is slow only the first time, so that no request pays for it."""
        self._engine.warm_up()

    def transcribe(self, waveforms: Sequence[np.ndarray], *, with_log_probs: bool = False) -> list[Transcript]:
        """Transcripts of waveforms, in their order.

        Args:
            waveforms: `(N,)` float32 each, at `sample_rate_hz`, full scale 1, any lengths above 0.
            with_log_probs: Whether the transcripts bring along what a search needs.

        Returns:
            One transcript per waveform; alone or together they are the same.
        """
        transcripts: dict[int, Transcript] = {}
        num_frames: dict[int, int] = {}
        for row, waveform in enumerate(waveforms):
            # A search needs the log-probabilities of all frames: then there is no bound on memory.
            if len(waveform) > LONG_AUDIO_S * self.sample_rate_hz and not with_log_probs:
                transcripts[row] = self.transcribe_long(waveform_source(waveform))
            else:
                num_frames[row] = self._filterbank.num_frames(len(waveform))
        for rows in self._batches(num_frames):
            log_probs, encoder_lengths = self._engine.log_probs(*self._features([waveforms[row] for row in rows]))
            labels = greedy_decode(log_probs, encoder_lengths, blank=self.alphabet.blank)
            confidences = emission_confidence(log_probs, encoder_lengths, blank=self.alphabet.blank)
            words = greedy_words(log_probs, encoder_lengths, self.alphabet, frame_s=self.frame_s)
            kept = split(log_probs, encoder_lengths) if with_log_probs else [None] * len(rows)
            for row, ids, confidence, spans, scores in zip(rows, labels, confidences, words, kept, strict=True):
                duration_s = len(waveforms[row]) / self.sample_rate_hz
                transcripts[row] = Transcript(
                    self.alphabet.decode(ids),
                    duration_s,
                    confidence,
                    tuple(self._calibration.apply(spans, end_s=duration_s) if self._calibration else spans),
                    log_probs=scores,
                )
        return [transcripts[row] for row in range(len(waveforms))]

    def stream(
        self, source: Source, *, statistics: Statistics = "whole", compute: Compute | None = None
    ) -> Iterator[Piece]:
        """The transcript of audio of any length in bounded memory, piece by piece while it is read.

        Args:
            source: See `jasper_ray.inference.long_audio`.
            statistics: `running` for audio that can be read only once.
            compute: Who runs the model, if not this transcriber's engine in this thread: `log_probs` elsewhere.
        """
        said_s = 0.0
        for piece in self._long.stream(source, statistics=statistics, compute=compute):
            words = piece.words
            if self._calibration and words:
                words = tuple(self._calibration.apply(words, begin_s=said_s, end_s=piece.end_s))
                said_s = words[-1].end_s
            yield replace(piece, words=words)

    def log_probs(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As `Engine.log_probs`."""
        return self._engine.log_probs(features, lengths)

    def transcribe_long(self, source: Source, *, statistics: Statistics = "whole") -> Transcript:
        """The transcript of audio of any length in bounded memory; arguments as of `stream`."""
        return joined(list(self.stream(source, statistics=statistics)))

    def _batches(self, num_frames: Mapping[int, int]) -> list[list[int]]:
        """Rows from long to short, in batches of bounded padded length."""
        hop_s = self.config.features.hop_s
        batches: list[list[int]] = []
        for row in sorted(num_frames, key=lambda row: -num_frames[row]):
            longest_s = num_frames[batches[-1][0]] * hop_s if batches else 0.0
            if batches and (len(batches[-1]) + 1) * longest_s <= self._batch_seconds:
                batches[-1].append(row)
            else:
                batches.append([row])
        return batches

    def _features(self, waveforms: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        """`(B, F, T)` where they were made, and `(B,)` frames."""
        if self._on_gpu is not None:
            return self._on_gpu(waveforms)
        features = [self._filterbank(torch.tensor(waveform, dtype=torch.float32)) for waveform in waveforms]
        lengths = torch.tensor([one.shape[1] for one in features], dtype=torch.int64)
        multiple = self.config.features.pad_to_multiple
        width = -(-int(lengths.max()) // multiple) * multiple
        padded = torch.zeros(len(features), features[0].shape[0], width)
        for row, one in enumerate(features):
            padded[row, :, : one.shape[1]] = one
        return padded, lengths


def joined(pieces: Sequence[Piece]) -> Transcript:
    """The transcript that all pieces of a `stream` are together."""
    num_emitting = sum(piece.num_emitting for piece in pieces)
    confidence = sum(piece.probability_sum for piece in pieces) / max(num_emitting, 1)
    words = tuple(word for piece in pieces for word in piece.words)
    return Transcript("".join(piece.text for piece in pieces), pieces[-1].end_s, confidence, words)


def emission_confidence(log_probs: Tensor, lengths: Tensor, *, blank: int) -> list[float]:
    """Mean probability of the best label over the frames where that is not the blank; 0 without such a frame.

    Args:
        log_probs: `(B, T, V)`.
        lengths: `(B,)` valid frames.
        blank: Index of the CTC blank.
    """
    best, labels = log_probs.max(dim=2)
    emits = (labels != blank) & (torch.arange(labels.shape[1], device=labels.device) < lengths[:, None])
    sums = (best.exp() * emits).sum(dim=1)
    return (sums / emits.sum(dim=1).clamp(min=1)).tolist()
