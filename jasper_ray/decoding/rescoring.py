"""The best transcripts of a beam search ranked anew by a neural language model of Hugging Face transformers.

Any causal model in a folder (`save_pretrained`, with its tokenizer): GPT-2, Llama, one with recurrence, one made by
`python -m jobs.language_model neural`. Nothing is fetched from the internet.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jasper_ray.config.decoding import DecodingConfig
from jasper_ray.decoding.beam import Hypothesis
from jasper_ray.errors import ConfigError, DataError
from jasper_ray.storage import object_store

TOKENS_PER_BATCH = 8192
"""Tokens scored at a time, with padding."""


def require_transformers() -> Any:
    """The package transformers.

    Raises:
        ConfigError: It is not installed; says how to get it.
    """
    try:
        import transformers
    except ImportError as error:
        raise ConfigError(
            "rescoring needs the package transformers: pip install 'jasper-ray[rescoring]', or leave out "
            "rescoring_model"
        ) from error
    transformers.utils.logging.disable_progress_bar()  # a job's output is for people; one bar per file is noise
    return transformers


class NeuralLanguageModel:
    """How probable sentences are by a causal language model.

    Args:
        uri: Its folder, local or on a store.
        device: Where it runs: cpu or cuda.

    Raises:
        ConfigError: transformers is not installed.
        DataError: There is no causal language model with a tokenizer in the folder; says why.
    """

    def __init__(self, uri: str, *, device: str = "cpu") -> None:
        transformers = require_transformers()
        self._fetched: tempfile.TemporaryDirectory[str] | None = None
        folder = Path(uri).expanduser()
        if not object_store.is_local(uri):
            self._fetched = tempfile.TemporaryDirectory(prefix="jasper-neural-")
            folder = Path(self._fetched.name)
            object_store.download_folder(uri, folder)
        if not (folder / "config.json").is_file():
            raise DataError(
                f"{uri} is no language model of transformers: it has no config.json. Give a folder that "
                "save_pretrained wrote, or make one with python -m jobs.language_model neural"
            )
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise DataError(f"{uri} cannot be read as a causal language model with its tokenizer: {error}") from error
        self._device = torch.device(device)
        self._model.to(self._device).eval()
        self._edge = self._sentence_edge(uri)
        self._longest = int(getattr(self._model.config, "max_position_embeddings", 0) or 0)

    def log_probs(self, sentences: Sequence[str]) -> list[float]:
        """Natural log of the probability of each sentence and its end.

        Sentences are scored in batches of similar length; alone or together the figures are the same, up to rounding.

        Raises:
            ValueError: A sentence is longer than the model can read; names it.
        """
        first, last = self._edge
        encoded = [[first, *self._tokenizer.encode(text, add_special_tokens=False), last] for text in sentences]
        for text, ids in zip(sentences, encoded, strict=True):
            if self._longest and len(ids) - 1 > self._longest:
                raise ValueError(f"{len(ids)} tokens, the language model reads {self._longest}: {text[:80]!r}")
        scores = [0.0] * len(encoded)
        order = sorted(range(len(encoded)), key=lambda row: len(encoded[row]))
        start = 0
        while start < len(order):
            # Sorted, so the longest row of a batch is its last: grow until the padded batch is full.
            end = start + 1
            while end < len(order) and (end + 1 - start) * len(encoded[order[end]]) <= TOKENS_PER_BATCH:
                end += 1
            rows = order[start:end]
            for row, score in zip(rows, self._score([encoded[row] for row in rows]), strict=True):
                scores[row] = score
            start = end
        return scores

    @torch.inference_mode()
    def _score(self, rows: list[list[int]]) -> list[float]:
        width = max(map(len, rows))
        ids = torch.zeros(len(rows), width, dtype=torch.int64)
        mask = torch.zeros(len(rows), width, dtype=torch.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row)
            mask[number, : len(row)] = 1
        ids, mask = ids.to(self._device), mask.to(self._device)
        # What lies behind a row's end cannot be seen from before it: the model is causal, so the right is padded.
        logits: Tensor = self._model(input_ids=ids[:, :-1], attention_mask=mask[:, :-1]).logits
        found = torch.log_softmax(logits.float(), dim=2).gather(2, ids[:, 1:, None])[..., 0]
        return [float(score) for score in (found * mask[:, 1:]).double().sum(dim=1)]

    def _sentence_edge(self, uri: str) -> tuple[int, int]:
        """Tokens before and behind a sentence; many models have one for both."""
        last = self._tokenizer.eos_token_id
        first = self._tokenizer.bos_token_id if self._tokenizer.bos_token_id is not None else last
        if first is None or last is None:
            raise DataError(f"{uri}: its tokenizer has no token for the end of a text (eos_token)")
        return int(first), int(last)


class Rescorer:
    """Ranks hypotheses anew.

    A score becomes acoustics + `rescoring_lm_weight` * n-grams + word bonus + `rescoring_weight` * neural model.

    Args:
        model: The neural language model.
        config: Weights; `lm_weight` must be that of the search that found the hypotheses.
    """

    def __init__(self, model: NeuralLanguageModel, config: DecodingConfig) -> None:
        self._model = model
        self._config = config

    def rank(self, utterances: Sequence[Sequence[Hypothesis]]) -> list[list[Hypothesis]]:
        """Hypotheses of each utterance, best first by their new scores."""
        texts = sorted({hypothesis.text for hypotheses in utterances for hypothesis in hypotheses})
        neural = dict(zip(texts, self._model.log_probs(texts), strict=True))
        return [
            ranked(
                hypotheses,
                [neural[hypothesis.text] for hypothesis in hypotheses],
                lm_weight=self._config.lm_weight,
                rescoring_weight=self._config.rescoring_weight,
                rescoring_lm_weight=self._config.second_lm_weight,
            )
            for hypotheses in utterances
        ]


def ranked(
    hypotheses: Sequence[Hypothesis],
    neural: Sequence[float],
    *,
    lm_weight: float,
    rescoring_weight: float,
    rescoring_lm_weight: float,
) -> list[Hypothesis]:
    """Hypotheses with new scores, best first; equal ones keep their order.

    Args:
        hypotheses: Of one utterance.
        neural: Natural log of the probability of each by the neural model.
        lm_weight: Weight of the n-grams in the scores so far.
        rescoring_weight: Weight of the neural model.
        rescoring_lm_weight: Weight of the n-grams from now on.
    """
    anew = [
        Hypothesis(one.text, one.score + (rescoring_lm_weight - lm_weight) * one.lm_score + rescoring_weight * score,
                   one.lm_score, score)
        for one, score in zip(hypotheses, neural, strict=True)
    ]  # fmt: skip
    return sorted(anew, key=lambda one: -one.score)


def build_rescorer(config: DecodingConfig) -> Rescorer | None:
    """What ranks the hypotheses of a search anew, if its config names a model for it.

    Raises:
        ConfigError: transformers is not installed.
        DataError: There is no such model where the config says.
    """
    if config.rescoring_model is None:
        return None
    return Rescorer(NeuralLanguageModel(config.rescoring_model, device=config.rescoring_device), config)
