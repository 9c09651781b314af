"""A transcript of a corpus -> what is stored in a dataset, as `PreparationConfig` wants it."""

from jasper_ray.config.data import PreparationConfig
from jasper_ray.text.normalize import normalize_text
from jasper_ray.text.nvidia import normalize_nvidia


def stored_text(text: str, alphabet: str, config: PreparationConfig) -> str:
    """The text that labels are made from; what it has outside the alphabet is for the caller to refuse.

    Args:
        text: Transcript as the corpus has it.
        alphabet: Characters that are wanted.
        config: Says which normalisation; `none` takes the text as it is, `case` and `unicode_form` included.
    """
    if config.normalize == "none":
        return text
    if config.normalize == "basic":
        return normalize_text(text, alphabet, case=config.case, unicode_form=config.unicode_form)
    exact = config.normalize == "nvidia-exact"
    return normalize_nvidia(text, alphabet, exact=exact, unicode_form=config.unicode_form)
