"""Words and phrases that a request makes more likely: what a beginning of a transcript gains by them, unit by unit.

A phrase's bonus is spread over its units (words, or characters in a search without a lexicon), so that a beam keeps its
beginning; a beginning that does not become the phrase gives back what it got.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jasper_ray.text.alphabet import Alphabet


@dataclass
class Node:
    """A beginning of a phrase."""

    children: dict[str, "Node"] = field(default_factory=dict)
    total: float = 0.0
    """What the beginning has gained."""
    earned: float = 0.0
    """What of that stays if the phrase breaks off here: the bonus of a shorter phrase."""
    earned_at_end: float = 0.0
    """What of it stays if the transcript ends here."""
    starts_word: bool = False
    """Whether a word begins behind it."""


class HotWords:
    """Phrases and what each of their words adds to a score (natural log).

    Args:
        weights: By phrase; spaces separate its words.
        alphabet: Of the recogniser.

    Raises:
        ValueError: A phrase is empty, has characters outside the alphabet, or a weight is not finite; names it.
    """

    def __init__(self, weights: Mapping[str, float], alphabet: Alphabet) -> None:
        self.phrases: dict[tuple[str, ...], float] = {}
        for phrase, weight in weights.items():
            words = tuple(phrase.split())
            if not words:
                raise ValueError("a hot word is empty")
            if not abs(weight) < float("inf"):
                raise ValueError(f"hot word {phrase!r}: its weight must be a finite number, got {weight}")
            alphabet.encode(" ".join(words))
            self.phrases[words] = weight

    def words_outside(self, known: set[str]) -> list[str]:
        """Words of phrases that are not among the known ones, sorted."""
        return sorted({word for phrase in self.phrases for word in phrase} - known)

    def word_tree(self) -> Node:
        """Phrases word by word."""
        root = Node(starts_word=True)
        for phrase, weight in self._shortest_first():
            end = _insert(root, phrase, [weight] * len(phrase))
            end.earned = end.earned_at_end = end.total
        return root

    def character_tree(self) -> Node:
        """Phrases character by character; the space behind a phrase ends it, as does the end of the transcript."""
        root = Node(starts_word=True)
        for phrase, weight in self._shortest_first():
            text = " ".join(phrase)
            last = _insert(root, text, [weight * len(phrase) / len(text)] * len(text))
            last.earned_at_end = last.total
            end = _insert(last, " ", [0.0])
            end.earned = end.earned_at_end = end.total
        return root

    def _shortest_first(self) -> list[tuple[tuple[str, ...], float]]:
        """So that a phrase that begins another gets its own weight, and the longer one the rest of its."""
        return sorted(self.phrases.items(), key=lambda item: len(" ".join(item[0])))


def advance(root: Node, node: Node | None, unit: str, *, per_character: bool) -> tuple[Node | None, float]:
    """The next place in the tree and what the score gains by a unit.

    `None` as a place: inside a word that no phrase begins with (searches by character only).
    """
    if node is not None:
        child = node.children.get(unit)
        if child is not None:
            return child, child.total - node.total
    given_back = node.total - node.earned if node is not None else 0.0
    if per_character and unit == " ":
        return root, -given_back
    child = root.children.get(unit) if node is not None and (node.starts_word or not per_character) else None
    if child is not None:
        return child, child.total - given_back
    return (None if per_character else root), -given_back


def boosted(
    base: type, model: Any, hotwords: HotWords, units: Sequence[str], *, per_character: bool, scale: float
) -> Any:
    """A flashlight language model that adds the bonuses of hot words to another's scores.

    Args:
        base: flashlight's class of language models.
        model: Whose scores are added to; units beyond those it knows are its last one, the unknown word.
        hotwords: The phrases.
        units: What the search's unit numbers stand for; a space is `|`.
        per_character: Whether units are characters.
        scale: What a bonus is multiplied by, since flashlight weighs the sum.
    """
    root = hotwords.character_tree() if per_character else hotwords.word_tree()
    names = [" " if unit == "|" and per_character else unit for unit in units]

    class Boosted(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self._places: dict[Any, tuple[Any, Node | None]] = {}

        def start(self, start_with_nothing: bool) -> Any:
            from flashlight.lib.text.decoder import LMState

            self._places.clear()
            state = LMState()
            self._places[state] = (model.start(start_with_nothing), root)
            return state

        def score(self, state: Any, unit: int) -> tuple[Any, float]:
            inner, node = self._places[state]
            inner, score = model.score(inner, unit)
            node, gain = advance(root, node, names[unit], per_character=per_character)
            following = state.child(unit)
            self._places[following] = (inner, node)
            return following, score + gain * scale

        def finish(self, state: Any) -> tuple[Any, float]:
            inner, node = self._places[state]
            inner, score = model.finish(inner)
            following = state.child(len(names))
            self._places[following] = (inner, None)
            return following, score - (node.total - node.earned_at_end if node is not None else 0.0) * scale

    return Boosted()


def _insert(node: Node, units: Iterable[str], gains: Sequence[float]) -> Node:
    """The node at the end of `units`; what is there already keeps its gain, what is new makes up the difference."""
    wanted = node.total
    for unit, gain in zip(units, gains, strict=True):
        wanted += gain
        fresh = Node(total=wanted, earned=node.earned, earned_at_end=node.earned, starts_word=unit == " ")
        node = node.children.setdefault(unit, fresh)
    return node
