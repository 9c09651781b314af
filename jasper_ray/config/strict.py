"""The base of every config model: frozen, and no key that is not declared."""

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """A frozen value that refuses unknown keys, so that a typo never becomes a default."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )
