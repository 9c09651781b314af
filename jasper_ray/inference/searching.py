"""Transcripts by beam search instead of greedy decoding: with language models, hot words and alternatives."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from jasper_ray.config.decoding import DecodingConfig
from jasper_ray.decoding.beam import Hypothesis
from jasper_ray.decoding.confidence import Calibration
from jasper_ray.decoding.decoder import BeamSearch
from jasper_ray.decoding.words import words_of
from jasper_ray.inference.transcriber import Transcript
from jasper_ray.text.alphabet import Alphabet

WARM_UP_UTTERANCES = 16
"""Enough for every process of the search to get some."""


class TranscriptSearch:
    """Searches better transcripts in what greedy ones were read from.

    Args:
        alphabet: Of the model.
        config: The search and its language models.
        frame_s: Seconds per encoder frame.
        calibration: Of confidences and times of words found by search (`python -m jobs.calibrate`).
        num_processes: Of the search.
        apart: Never search in this process.

    Raises:
        ConfigError: The parts of the search do not go together, or a package is missing.
        DataError: There is no language model where the config says.
    """

    def __init__(
        self,
        alphabet: Alphabet,
        config: DecodingConfig,
        *,
        frame_s: float,
        calibration: Calibration | None = None,
        num_processes: int = 1,
        apart: bool = False,
    ) -> None:
        self._alphabet = alphabet
        self._frame_s = frame_s
        self._calibration = calibration
        self._search = BeamSearch(alphabet, config, num_processes=num_processes, apart=apart)

    def transcripts(
        self, greedy: Sequence[Transcript], *, num_best: int = 1, hotwords: Mapping[str, float] | None = None
    ) -> list[Transcript]:
        """The same utterances as the search reads them.

        Args:
            greedy: Transcripts with log-probabilities.
            num_best: How many alternatives are wanted; more than 1 are kept in the transcript.
            hotwords: Words or phrases and what each word of them adds to the score.

        Raises:
            ValueError: A hot word has characters outside the alphabet; names it.
        """
        log_probs = [_log_probs_of(one) for one in greedy]
        found = self._search.search(log_probs, num_best=num_best, hotwords=hotwords)
        return [
            self._transcript(one, scores, hypotheses, num_best)
            for one, scores, hypotheses in zip(greedy, log_probs, found, strict=True)
        ]

    def _transcript(
        self, greedy: Transcript, log_probs: np.ndarray, hypotheses: list[Hypothesis], num_best: int
    ) -> Transcript:
        text = hypotheses[0].text
        words = words_of(text, log_probs, self._alphabet, frame_s=self._frame_s)
        return replace(
            greedy,
            text=text,
            words=tuple(self._calibration.apply(words, end_s=greedy.duration_s) if self._calibration else words),
            alternatives=tuple(hypotheses) if num_best > 1 else (),
            log_probs=None,
        )

    def warm_up(self) -> None:
        """Do once what is slow only the first time, so that no request pays for it."""
        silence = np.full((8, self._alphabet.num_labels), -20.0, dtype=np.float32)
        silence[:, self._alphabet.blank] = 0.0
        self._search.search([silence] * WARM_UP_UTTERANCES)

    def close(self) -> None:
        """End the processes and delete what was fetched."""
        self._search.close()


def _log_probs_of(transcript: Transcript) -> np.ndarray:
    if transcript.log_probs is None:
        raise ValueError("a search needs log-probabilities: transcribe(…, with_log_probs=True)")
    return transcript.log_probs
