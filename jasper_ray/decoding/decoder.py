"""One interface for every way from log-probabilities to text: greedy, or beam search on several cores."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from threading import Lock
from typing import Protocol

import numpy as np
from torch import Tensor

from jasper_ray.config.decoding import DecodingConfig
from jasper_ray.decoding.beam import BeamDecoder, Hypothesis
from jasper_ray.decoding.language_model import LanguageModel, load_language_model
from jasper_ray.decoding.rescoring import Rescorer, build_rescorer
from jasper_ray.model.ctc import greedy_decode
from jasper_ray.text.alphabet import Alphabet

CHUNK = 4
"""Utterances that a process takes at a time."""


class TextDecoder(Protocol):
    """Log-probabilities to transcripts."""

    def texts(self, log_probs: Tensor, lengths: Tensor) -> list[str]:
        """Transcripts of `(B, T, V)` log-probabilities with `(B,)` valid frames."""

    def close(self) -> None:
        """End what was started; no more calls after this."""


class GreedyDecoder:
    """The best label of each frame."""

    def __init__(self, alphabet: Alphabet) -> None:
        self._alphabet = alphabet

    def texts(self, log_probs: Tensor, lengths: Tensor) -> list[str]:
        """Transcripts of `(B, T, V)` log-probabilities with `(B,)` valid frames."""
        return [self._alphabet.decode(ids) for ids in greedy_decode(log_probs, lengths, blank=self._alphabet.blank)]

    def close(self) -> None:
        """Nothing was started."""


class BeamSearch:
    """Beam search in this process, or in several: flashlight keeps Python's lock, so threads would not help.

    A neural model that ranks the hypotheses anew runs in this process, over all utterances of a call at once.

    Args:
        alphabet: Of the model.
        config: The search and its language model.
        num_processes: 1 searches here, unless `apart`.
        apart: Search in a process of its own also if there is only one, so that this one stays free.

    Raises:
        ConfigError: The parts of the search do not go together.
        DataError: There is no language model where the config says.
    """

    def __init__(
        self, alphabet: Alphabet, config: DecodingConfig, *, num_processes: int = 1, apart: bool = False
    ) -> None:
        self.config = config
        self._folder = tempfile.TemporaryDirectory(prefix="jasper-lm-")
        model = load_language_model(config.language_model, Path(self._folder.name)) if config.language_model else None
        self._here = BeamDecoder(alphabet, config, model)
        self._one_at_a_time = Lock()
        self._rescorer: Rescorer | None = build_rescorer(config)
        self._pool: ProcessPoolExecutor | None = None
        if num_processes > 1 or apart:
            self._pool = ProcessPoolExecutor(
                num_processes,
                mp_context=get_context("spawn"),
                initializer=_start_worker,
                initargs=(alphabet.labels, config, model),
            )

    def texts(self, log_probs: Tensor, lengths: Tensor) -> list[str]:
        """Transcripts of `(B, T, V)` log-probabilities with `(B,)` valid frames."""
        rows = split(log_probs, lengths)
        return [hypotheses[0].text for hypotheses in self.search(rows)]

    def search(
        self,
        utterances: Sequence[np.ndarray],
        *,
        num_best: int = 1,
        hotwords: Mapping[str, float] | None = None,
        weights: tuple[float, float] | None = None,
    ) -> list[list[Hypothesis]]:
        """The best transcripts of each utterance.

        Args:
            utterances: `(T, V)` natural log-probabilities each, without padding.
            num_best: How many transcripts are wanted.
            hotwords: As `BeamDecoder.decode`.
            weights: `lm_weight` and `word_bonus` instead of the config's; then nothing is ranked anew.
        """
        if self._rescorer is not None and weights is None:
            found = self._search(utterances, max(num_best, self.config.num_best), hotwords, None)
            with self._one_at_a_time:
                return [hypotheses[:num_best] for hypotheses in self._rescorer.rank(found)]
        return self._search(utterances, num_best, hotwords, weights)

    def _search(
        self,
        utterances: Sequence[np.ndarray],
        num_best: int,
        hotwords: Mapping[str, float] | None,
        weights: tuple[float, float] | None,
    ) -> list[list[Hypothesis]]:
        if self._pool is None:
            return _search(self._here, utterances, num_best, hotwords, weights)
        parts = [utterances[start : start + CHUNK] for start in range(0, len(utterances), CHUNK)]
        futures = [self._pool.submit(_search_there, part, num_best, hotwords, weights) for part in parts]
        return [hypotheses for future in futures for hypotheses in future.result()]

    def close(self) -> None:
        """End the processes and delete what was fetched."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._folder.cleanup()


def build_decoder(config: DecodingConfig, alphabet: Alphabet, *, num_processes: int = 1) -> TextDecoder:
    """The decoder that a config names.

    Raises:
        ConfigError: The parts of the search do not go together.
        DataError: There is no language model where the config says.
    """
    if config.method == "greedy":
        return GreedyDecoder(alphabet)
    return BeamSearch(alphabet, config, num_processes=num_processes)


def split(log_probs: Tensor, lengths: Tensor) -> list[np.ndarray]:
    """`(T_i, V)` float32 arrays of a batch's utterances, without padding."""
    values = log_probs.float().cpu().numpy()
    return [values[row, :length] for row, length in enumerate(lengths.tolist())]


_worker: list[BeamDecoder] = []
"""The search of a process of the pool."""


def _start_worker(labels: str, config: DecodingConfig, model: LanguageModel | None) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    _worker.append(BeamDecoder(Alphabet(labels), config, model))


def _search_there(
    utterances: Sequence[np.ndarray],
    num_best: int,
    hotwords: Mapping[str, float] | None,
    weights: tuple[float, float] | None,
) -> list[list[Hypothesis]]:
    return _search(_worker[0], utterances, num_best, hotwords, weights)


def _search(
    decoder: BeamDecoder,
    utterances: Sequence[np.ndarray],
    num_best: int,
    hotwords: Mapping[str, float] | None,
    weights: tuple[float, float] | None,
) -> list[list[Hypothesis]]:
    if weights is not None:
        decoder = decoder.reweighted(lm_weight=weights[0], word_bonus=weights[1])
    return [decoder.decode(one, num_best=num_best, hotwords=hotwords) for one in utterances]
