"""What every reader of a foreign format gives."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class CorpusUtterance:
    """An utterance as a corpus has it, before it is checked and normalised."""

    id: str
    audio: bytes
    """The encoded file."""
    path: str
    """Where it came from, for messages."""
    text: str
    speaker: str
    fields: Mapping[str, str] = field(default_factory=dict)
    """Whatever else the corpus says, by name; `where` selects by it."""
