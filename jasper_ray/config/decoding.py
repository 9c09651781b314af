"""How log-probabilities become words."""

from typing import Literal, Self

from pydantic import Field, model_validator

from jasper_ray.config.strict import StrictModel


class DecodingConfig(StrictModel):
    """Greedy decoding or beam search, with or without a language model.

    A transcript's score is the natural log of its acoustic probability + `lm_weight` times the natural log of its
    probability by the language model + `word_bonus` per word. With a `rescoring_model` the `num_best` best ones are
    ranked anew, by that plus `rescoring_weight` times the natural log of their probability by that model.
    """

    method: Literal["greedy", "beam"] = "greedy"
    """`greedy` takes the best label of each frame; `beam` searches."""
    language_model: str | None = None
    """Folder of a language model (python -m jobs.language_model), local or on a store."""
    lexicon: bool = True
    """Only words of the language model's lexicon; false writes any word and needs a model of characters, or none."""
    beam_width: int = Field(32, ge=1)
    """Beginnings of transcripts kept from frame to frame."""
    tokens_per_frame: int | None = Field(None, ge=1)
    """Labels tried in each frame, the most probable ones; null tries all."""
    beam_threshold: float = Field(50.0, gt=0)
    """Beginnings that score so much less than the best are dropped (natural log)."""
    lm_weight: float = Field(0.5, ge=0)
    """Weight of the language model (alpha)."""
    word_bonus: float = 0.0
    """Added per word (beta): above 0 more and shorter words, below 0 fewer."""
    alignments: Literal["sum", "best"] = "sum"
    """Whether the alignments of a transcript are added up, as CTC defines it, or the best one counts."""

    rescoring_model: str | None = None
    """Folder of a causal language model of Hugging Face transformers, local or on a store: ranks the best transcripts
    of the search anew."""
    rescoring_weight: float = Field(0.3, ge=0)
    """Weight of that model."""
    rescoring_lm_weight: float | None = Field(None, ge=0)
    """Weight of the n-grams in that ranking; null is `lm_weight`."""
    rescoring_device: str = "cpu"
    """Where that model runs: cpu or cuda."""
    num_best: int = Field(50, ge=1)
    """Transcripts that are ranked anew."""

    @property
    def second_lm_weight(self) -> float:
        """Weight of the n-grams when transcripts are ranked anew."""
        return self.lm_weight if self.rescoring_lm_weight is None else self.rescoring_lm_weight

    @model_validator(mode="after")
    def _language_model_is_used(self) -> Self:
        if self.method == "greedy" and self.language_model is not None:
            raise ValueError(
                f"language_model={self.language_model!r} needs method=beam: greedy decoding cannot use one"
            )
        if self.method == "greedy" and self.rescoring_model is not None:
            raise ValueError(
                f"rescoring_model={self.rescoring_model!r} needs method=beam: greedy decoding finds one transcript only"
            )
        return self
