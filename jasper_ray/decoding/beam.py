"""Beam search over CTC log-probabilities, by flashlight-text with n-gram models of words or characters.

Sources: Graves and Jaitly 2014 (prefix beam search); Collobert et al. 2016 (search in a lexicon).
"""

import math
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from jasper_ray.config.decoding import DecodingConfig
from jasper_ray.decoding.hotwords import HotWords, boosted
from jasper_ray.decoding.language_model import SPACE, LanguageModel
from jasper_ray.decoding.ngram import UNKNOWN
from jasper_ray.errors import ConfigError
from jasper_ray.text.alphabet import Alphabet

LN_10 = math.log(10)
LEAST_WEIGHT = 1e-6
IMPOSSIBLE = -1e4
"""Natural log of what cannot be; flashlight takes sums of these, infinities would become undefined."""


@dataclass(frozen=True)
class Hypothesis:
    """One way to read an utterance."""

    text: str
    score: float
    """acoustic + lm_weight * language model + bonuses (+ rescoring_weight * neural model); natural log."""
    lm_score: float
    """Natural log of the probability by the language model; 0 without one."""
    neural_score: float = 0.0
    """The same by the neural model that ranked it anew; 0 without one."""


def require_flashlight() -> tuple[Any, Any, Any]:
    """flashlight-text's decoder, KenLM and dictionary modules.

    Raises:
        ConfigError: The package is not installed; says how to get it.
    """
    try:
        from flashlight.lib.text import decoder, dictionary
        from flashlight.lib.text.decoder import kenlm
    except ImportError as error:
        raise ConfigError(
            "beam search needs the package flashlight-text: pip install 'jasper-ray[beam]', or use method=greedy"
        ) from error
    return decoder, kenlm, dictionary


class BeamDecoder:
    """Searches for the best transcripts of an utterance.

    Args:
        alphabet: Of the model whose log-probabilities are read.
        config: Width, weights; `config.language_model` is not looked at.
        language_model: The loaded model, or none.

    Raises:
        ConfigError: Lexicon, language model and alphabet do not go together; says how they would.
    """

    def __init__(self, alphabet: Alphabet, config: DecodingConfig, language_model: LanguageModel | None = None) -> None:
        self._decoder, self._kenlm, self._dictionary = require_flashlight()
        self._alphabet = alphabet
        self._config = config
        self._model = language_model
        self._lexicon = config.lexicon and language_model is not None
        if language_model is not None and not config.lexicon and language_model.config.unit == "word":
            raise ConfigError(
                "lexicon=false needs a language model of characters, this one is of words: build one with --unit "
                "character, or search in the lexicon"
            )
        if config.word_bonus and not self._lexicon:
            raise ConfigError(f"word_bonus={config.word_bonus} needs a search in a lexicon: without one, set it to 0")
        if self._lexicon and " " not in alphabet.labels:
            raise ConfigError(f"search in a lexicon needs a space in the alphabet, got {alphabet.labels!r}")
        self._words = self._spellable(language_model.words) if language_model and self._lexicon else []
        self._known = set(self._words)
        self._of_characters = language_model is None or language_model.config.unit == "character"
        self._token_names = [SPACE if label == " " else label for label in alphabet.labels] + ["<blank>"]
        self._ngrams = self._load_ngrams()
        self._trie = self._spell(self._words, self._ngrams) if self._lexicon else None
        self._plain = self._build(None)

    def reweighted(self, *, lm_weight: float, word_bonus: float) -> "BeamDecoder":
        """The same search with other weights; nothing is loaded again."""
        other = copy(self)
        other._config = self._config.model_copy(update={"lm_weight": lm_weight, "word_bonus": word_bonus})
        other._plain = other._build(None)
        return other

    def decode(
        self, log_probs: np.ndarray, *, num_best: int = 1, hotwords: Mapping[str, float] | None = None
    ) -> list[Hypothesis]:
        """The best transcripts of one utterance.

        Args:
            log_probs: `(T, V)` natural log-probabilities of the utterance's frames, without padding.
            num_best: How many transcripts are wanted.
            hotwords: Words or phrases and what each word of them adds to the score (natural log; 5 is much).

        Returns:
            Up to `num_best` different transcripts, best first; an empty one if there are no frames.

        Raises:
            ValueError: A hot word has characters outside the alphabet, or the width of `log_probs` is not `V`.
        """
        if log_probs.ndim != 2 or log_probs.shape[1] != self._alphabet.num_labels:
            raise ValueError(f"log_probs must be (T, {self._alphabet.num_labels}), got {log_probs.shape}")
        if len(log_probs) == 0:
            return [Hypothesis("", 0.0, 0.0)]
        search = self._plain if not hotwords else self._build(HotWords(hotwords, self._alphabet))
        emissions = np.maximum(np.ascontiguousarray(log_probs, dtype=np.float32), IMPOSSIBLE)
        if self._lexicon:  # the space that ends the last word
            end = np.full((1, emissions.shape[1]), IMPOSSIBLE, dtype=np.float32)
            end[0, self._alphabet.labels.index(" ")] = 0.0
            emissions = np.concatenate([emissions, end])
        return self._best(search.results(emissions), num_best)

    def _best(self, results: Sequence[Any], num_best: int) -> list[Hypothesis]:
        """Results with equal text as one, best first."""
        found: dict[str, tuple[float, float]] = {}
        for result in results:
            text = self._text(result)
            score = float(result.score)
            if text not in found:
                found[text] = (score, float(result.lmScore) * LN_10)
            elif self._config.alignments == "sum":
                found[text] = (float(np.logaddexp(found[text][0], score)), found[text][1])
        ranked = sorted(found.items(), key=lambda item: -item[1][0])[:num_best]
        return [Hypothesis(text, score, lm_score) for text, (score, lm_score) in ranked]

    def _text(self, result: Any) -> str:
        tokens = [-1, *(token for token in result.tokens if token >= 0)]
        ids = [token for before, token in pairwise(tokens) if token not in (before, self._alphabet.blank)]
        return " ".join(self._alphabet.decode(ids).split())

    def _spellable(self, words: Sequence[str]) -> list[str]:
        """Words of the lexicon that the alphabet can write; others can never be heard."""
        letters = set(self._alphabet.labels)
        spellable = [word for word in words if letters.issuperset(word)]
        if not spellable:
            raise ConfigError(
                f"none of the {len(words)} words of the lexicon can be written in the alphabet "
                f"{self._alphabet.labels!r}, first {list(words[:3])}: normalise the language model's text as the "
                "recogniser's"
            )
        return spellable

    def _build(self, hotwords: HotWords | None) -> "_Search":
        """A search; hot words ask for one of their own."""
        config, flashlight = self._config, self._decoder
        space = self._alphabet.labels.index(" ") if " " in self._alphabet.labels else -1
        tokens = min(config.tokens_per_frame or self._alphabet.num_labels, self._alphabet.num_labels)
        limits = (config.beam_width, tokens, config.beam_threshold)
        combine, ctc = config.alignments == "sum", flashlight.CriterionType.CTC
        words = [*self._words, *(hotwords.words_outside(self._known) if hotwords and self._lexicon else [])]
        units = self._token_names if self._of_characters else words
        model, trie = self._ngrams, self._trie
        # KenLM's scores are logs to the base of 10; bonuses go through the weight too, so it is never 0.
        weight = max(config.lm_weight, LEAST_WEIGHT) * LN_10 if self._model else 1.0
        if hotwords is not None:
            if not self._of_characters:
                model = _WithUnknown(model, num_known=len(self._words))
            model = boosted(flashlight.LM, model, hotwords, units, per_character=self._of_characters, scale=1 / weight)
            trie = self._spell(words, model) if self._lexicon else None
        if not self._lexicon:
            options = flashlight.LexiconFreeDecoderOptions(*limits, weight, 0.0, combine, ctc)
            return _Search(flashlight.LexiconFreeDecoder(options, model, space, self._alphabet.blank, []), [model])
        options = flashlight.LexiconDecoderOptions(*limits, weight, config.word_bonus, -math.inf, 0.0, combine, ctc)
        decoder = flashlight.LexiconDecoder(
            options, trie, model, space, self._alphabet.blank, -1, [], self._of_characters
        )
        return _Search(decoder, [trie, model])

    def _load_ngrams(self) -> Any:
        """flashlight's view of the n-grams, over this search's units; one that knows nothing where none is used."""
        if self._model is None:
            return self._decoder.ZeroLM()
        names = self._dictionary.Dictionary()
        for unit in self._token_names if self._of_characters else [*self._words, UNKNOWN]:
            names.add_entry(unit)
        return self._kenlm.KenLM(str(self._model.path), names)

    def _spell(self, words: Sequence[str], model: Any) -> Any:
        """Spellings, each with the space behind it, and the best score that each beginning may still reach."""
        space = self._alphabet.labels.index(" ")
        trie = self._decoder.Trie(self._alphabet.num_labels, space)
        start = model.start(False)
        for number, word in enumerate(words):
            score = 0.0 if self._of_characters else model.score(start, number)[1]
            trie.insert([*self._alphabet.encode(word), space], number, score)
        if not self._of_characters:
            trie.smear(self._decoder.SmearingMode.MAX)
        return trie


@dataclass(frozen=True)
class _Search:
    """A flashlight decoder and what it points to without keeping it alive."""

    decoder: Any
    kept: list[Any]

    def results(self, emissions: np.ndarray) -> list[Any]:
        return list(self.decoder.decode(emissions.ctypes.data, *emissions.shape))


@dataclass(frozen=True)
class _WithUnknown:
    """A model of words that takes every number beyond those it knows for the unknown word."""

    model: Any
    num_known: int

    def start(self, start_with_nothing: bool) -> Any:
        return self.model.start(start_with_nothing)

    def score(self, state: Any, unit: int) -> Any:
        return self.model.score(state, min(unit, self.num_known))

    def finish(self, state: Any) -> Any:
        return self.model.finish(state)
