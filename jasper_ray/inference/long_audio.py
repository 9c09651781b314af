"""Audio of any length in bounded memory: read in windows, transcribed while it is read.

An encoder frame hears a finite stretch of audio (`ModelConfig.context_frames`, 8.8 s to either side in Jasper 10x5). A
window is computed with all of it, so that what is kept of the window is what the whole file would give (fp32: 1e-4).

`Transcriber.stream(source)` yields `Piece`s in order: text that will not change, with its words and times; together
they are the transcript. `Transcriber.transcribe_long(source)` joins them; `Transcriber.transcribe` does so by itself
with waveforms of more than `LONG_AUDIO_S`. A `source` is a function that gives the audio as blocks of float32 samples
at the bundle's rate, from the beginning, each time it is called: `waveform_source(samples)`, or
`encoded_source(file_bytes, sample_rate_hz)`, which decodes block by block.

Features are normalised over the whole utterance, so the audio is read twice: once for its statistics, once for the
transcript (features cost a thousandth of the model's time). Audio that is still being spoken cannot be read twice:
`statistics="running"` normalises each window by all audio up to its end, reads `source` once and never looks back. Its
transcript differs a little from the whole file's, most in the first seconds.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from jasper_ray.audio.decode import decode_blocks
from jasper_ray.audio.filterbank import Filterbank
from jasper_ray.audio.log_mel_stream import FeatureStatistics, stream_log_mel
from jasper_ray.decoding.alignment import WordSpan
from jasper_ray.decoding.timing import entropy_shares, path_words
from jasper_ray.inference.engine import Engine
from jasper_ray.model.bundle import BundleConfig
from jasper_ray.text.alphabet import Alphabet

Source = Callable[[], Iterable[np.ndarray]]
"""Gives the audio's blocks, `(n,)` float32 each, from the beginning."""
Statistics = Literal["whole", "running"]
Compute = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""As `Engine.log_probs`."""
LONG_AUDIO_S = 120.0
WINDOW_S = 30.0
"""What is kept of a window; its context comes on top."""
BLOCK_SAMPLES = 2**18


@dataclass(frozen=True)
class Piece:
    """A piece of a transcript, final when it is given out; all pieces one behind the other are the transcript."""

    text: str
    """Begins with a space where a word ended before."""
    words: tuple[WordSpan, ...]
    """Its words; times are from the beginning of the audio."""
    end_s: float
    """Audio up to here has been transcribed, but for a word that may go on."""
    probability_sum: float
    """Of the best labels in frames that are not blank; over `num_emitting` it is the confidence."""
    num_emitting: int


def waveform_source(waveform: np.ndarray) -> Source:
    """Blocks of a waveform in memory."""
    return lambda: (waveform[start : start + BLOCK_SAMPLES] for start in range(0, len(waveform), BLOCK_SAMPLES))


def encoded_source(encoded: bytes | memoryview, sample_rate_hz: int) -> Source:
    """Blocks of an audio file, decoded while they are read; `AudioError` comes then."""
    return lambda: decode_blocks(encoded, sample_rate_hz=sample_rate_hz)


class LongAudio:
    """Log-probabilities and greedy transcripts of audio of any length.

    Args:
        config: How the model hears.
        engine: The model.
        filterbank: Of `config.features`.
        alphabet: What it writes.
        window_s: Seconds that are kept of a window; more are faster and take more memory.
    """

    def __init__(
        self,
        config: BundleConfig,
        engine: Engine,
        filterbank: Filterbank,
        alphabet: Alphabet,
        *,
        window_s: float = WINDOW_S,
    ) -> None:
        self._config, self._engine, self._filterbank, self._alphabet = config, engine, filterbank, alphabet
        self._stride = config.model.total_stride
        # Windows begin at multiples of the stride, where the whole file's encoder frames lie.
        self._context = -(-config.model.context_frames // self._stride) * self._stride
        self._kept = max(1, round(window_s / (config.features.hop_s * self._stride))) * self._stride

    def stream(
        self, source: Source, *, statistics: Statistics = "whole", compute: Compute | None = None
    ) -> Iterator[Piece]:
        """The transcript, piece by piece; `compute` runs the model instead of the engine itself."""
        pieces = _Pieces(self._alphabet, self._config.features.hop_s * self._stride)
        for log_probs in self.log_probs(source, statistics=statistics, compute=compute):
            yield pieces.add(log_probs)
        yield pieces.rest()

    @torch.inference_mode()
    def log_probs(
        self, source: Source, *, statistics: Statistics = "whole", compute: Compute | None = None
    ) -> Iterator[Tensor]:
        """`(t, V)` log-probabilities of one window after the other; together those of the whole audio."""
        compute = compute or self._engine.log_probs
        counted = FeatureStatistics(self._config.features)
        is_whole = statistics == "whole"
        if is_whole and self._config.features.normalize != "none":
            for piece in self._log_mel(source):
                counted.add(piece)
        context = torch.empty(self._config.features.num_mels, 0)
        buffered, num_context = context, 0  # log-mel energies; how many of them are there only to be heard
        for piece in self._log_mel(source):
            if not is_whole:
                counted.add(piece)
            buffered = torch.cat([buffered, piece], dim=1)
            while buffered.shape[1] >= num_context + self._kept + self._context:
                window = buffered[:, : num_context + self._kept + self._context]
                yield self._computed(compute, counted.normalize(window), num_context, self._kept)
                end = num_context + self._kept
                num_context = min(self._context, end)
                buffered = buffered[:, end - num_context :].clone()
        while buffered.shape[1] > num_context:
            left = min(self._kept, buffered.shape[1] - num_context)
            window = buffered[:, : num_context + left + self._context]
            yield self._computed(compute, counted.normalize(window), num_context, left)
            end = num_context + left
            num_context = min(self._context, end)
            buffered = buffered[:, end - num_context :]

    def _log_mel(self, source: Source) -> Iterator[Tensor]:
        blocks = (torch.tensor(block, dtype=torch.float32) for block in source())
        return stream_log_mel(self._filterbank, self._config.features, blocks)

    def _computed(self, compute: Compute, window: Tensor, first: int, count: int) -> Tensor:
        log_probs, _ = compute(window[None], torch.tensor([window.shape[1]]))
        return log_probs[0, first // self._stride : -(-(first + count) // self._stride)]


class _Pieces:
    """Greedy decoding over windows: the path is cut where a space begins, so that no word is."""

    def __init__(self, alphabet: Alphabet, frame_s: float) -> None:
        self._alphabet, self._frame_s = alphabet, frame_s
        self._space = alphabet.labels.find(" ")
        self._best, self._path = np.empty(0, np.float32), np.empty(0, np.int64)
        self._entropies = np.empty(0, np.float32)
        self._first = 0  # frame of the whole audio that these begin with

    def add(self, log_probs: Tensor) -> Piece:
        best, path = (values.cpu().numpy() for values in log_probs.max(dim=1))
        self._best, self._path = np.concatenate([self._best, best]), np.concatenate([self._path, path])
        self._entropies = np.concatenate([self._entropies, entropy_shares(log_probs.float()).cpu().numpy()])
        is_space = self._path == self._space
        begins = np.flatnonzero(is_space[1:] & ~is_space[:-1]) + 1
        return self._cut(int(begins[-1]) if len(begins) else 0)

    def rest(self) -> Piece:
        return self._cut(len(self._path))

    def _cut(self, end: int) -> Piece:
        best, path = self._best[:end], self._path[:end]
        entropies = self._entropies[:end]
        self._best, self._path, self._entropies = self._best[end:], self._path[end:], self._entropies[end:]
        start_s = self._first * self._frame_s
        self._first += end
        words = tuple(
            replace(word, start_s=word.start_s + start_s, end_s=word.end_s + start_s)
            for word in path_words(best, path, entropies, self._alphabet, self._frame_s)
        )
        is_new = np.ones(end, dtype=bool)
        is_new[1:] = path[1:] != path[:-1]
        emits = path != self._alphabet.blank
        text = self._alphabet.decode(path[is_new & emits].tolist())
        total = float(np.exp(best[emits]).sum())
        return Piece(text, words, self._first * self._frame_s, total, int(emits.sum()))
