"""Waveforms in, transcripts out: the one way from audio to text, whoever asks."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jasper_ray.audio.filterbank import Filterbank
from jasper_ray.decoding.alignment import WordSpan
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


class Transcriber:
    """Features, batches, model and greedy decoding.

    Args:
        bundle: The model and how it hears.
        device: Where the model runs.
        precision: Its arithmetic.
        batch_seconds: Bound on count times longest of a batch; it changes the speed, never a transcript.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str = "cpu",
        precision: Precision = "fp32",
        batch_seconds: float = DEFAULT_BATCH_SECONDS,
    ) -> None:
        self.config = bundle.config
        self._alphabet = bundle.alphabet
        self._engine = Engine(bundle, device=device, precision=precision)
        self._filterbank = Filterbank(bundle.config.features)
        self._batch_seconds = batch_seconds
        self._long = LongAudio(bundle.config, self._engine, self._filterbank, bundle.alphabet)
        self._frame_s = bundle.config.features.hop_s * bundle.config.model.total_stride

    @classmethod
    def from_bundle(cls, uri: str, *, device: str = "cpu", precision: Precision = "fp32") -> "Transcriber":
        """Load a bundle from a folder or an object store.

        Raises:
            BundleError: There is no whole bundle at `uri`.
        """
        return cls(load_bundle(uri), device=device, precision=precision)

    @property
    def sample_rate_hz(self) -> int:
        """The rate that waveforms must have."""
        return self.config.features.sample_rate_hz

    def warm_up(self) -> None:
        """Do once what is slow only the first time, so that no request pays for it."""
        self._engine.warm_up()

    def transcribe(self, waveforms: Sequence[np.ndarray]) -> list[Transcript]:
        """Transcripts of waveforms, in their order.

        Args:
            waveforms: `(N,)` float32 each, at `sample_rate_hz`, full scale 1, any lengths above 0.

        Returns:
            One transcript per waveform; alone or together they are the same.
        """
        transcripts: dict[int, Transcript] = {}
        features: dict[int, Tensor] = {}
        for row, waveform in enumerate(waveforms):
            if len(waveform) > LONG_AUDIO_S * self.sample_rate_hz:
                transcripts[row] = self.transcribe_long(waveform_source(waveform))
            else:
                features[row] = self._filterbank(torch.tensor(waveform, dtype=torch.float32))
        for rows in self._batches({row: one.shape[1] for row, one in features.items()}):
            padded, lengths = self._pad([features[row] for row in rows])
            log_probs, encoder_lengths = self._engine.log_probs(padded, lengths)
            labels = greedy_decode(log_probs, encoder_lengths, blank=self._alphabet.blank)
            confidences = emission_confidence(log_probs, encoder_lengths, blank=self._alphabet.blank)
            words = greedy_words(log_probs, encoder_lengths, self._alphabet, frame_s=self._frame_s)
            for row, ids, confidence, spans in zip(rows, labels, confidences, words, strict=True):
                duration_s = len(waveforms[row]) / self.sample_rate_hz
                transcripts[row] = Transcript(self._alphabet.decode(ids), duration_s, confidence, tuple(spans))
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
        return self._long.stream(source, statistics=statistics, compute=compute)

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

    def _pad(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
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
