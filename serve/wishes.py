"""What a request asks of decoding: greedy or beam search, alternatives, hot words."""

import json
from dataclasses import dataclass, field

from serve.errors import ApiError

METHODS = ("greedy", "beam")
MAX_NUM_BEST = 50
MAX_HOTWORDS = 100
LARGEST_WEIGHT = 100.0


@dataclass(frozen=True)
class Wish:
    """A beam search as a request wants it."""

    num_best: int = 1
    hotwords: dict[str, float] = field(default_factory=dict)
    explicit: bool = True
    """Whether the request asked for a search itself; else it is what the service does by default."""


def wish_of(*, decoding: str, num_best: int, hotwords: str, alphabet: str, default: str) -> Wish | None:
    """What form fields ask for; none for greedy decoding.

    Args:
        decoding: greedy, beam, or empty: what the service does by default, beam if the other fields need it.
        num_best: Alternatives.
        hotwords: A JSON object of words or phrases and their weights, or empty.
        alphabet: Characters that hot words may have.
        default: greedy or beam.

    Raises:
        ApiError: 400, names the field.
    """
    if decoding and decoding not in METHODS:
        raise ApiError(400, f"decoding {decoding!r} is not supported: use {' or '.join(METHODS)}", param="decoding")
    if not 1 <= num_best <= MAX_NUM_BEST:
        raise ApiError(400, f"num_best must be from 1 to {MAX_NUM_BEST}, got {num_best}", param="num_best")
    weights = _hotwords(hotwords, alphabet) if hotwords.strip() else {}
    if decoding == "greedy":
        if weights or num_best > 1:
            param = "hotwords" if weights else "num_best"
            raise ApiError(400, f"{param} needs a beam search: leave out decoding=greedy", param=param)
        return None
    if decoding == "beam" or weights or num_best > 1:
        return Wish(num_best, weights)
    return Wish(explicit=False) if default == "beam" else None


def _hotwords(text: str, alphabet: str) -> dict[str, float]:
    example = 'a JSON object such as {"jasper": 5}: words or phrases and what each word of them adds to the score'
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or len(found) > MAX_HOTWORDS:
        raise ApiError(400, f"hotwords must be {example}; at most {MAX_HOTWORDS}", param="hotwords")
    weights = {}
    for phrase, weight in found.items():
        usable = isinstance(weight, int | float) and not isinstance(weight, bool) and abs(weight) <= LARGEST_WEIGHT
        if not usable:
            message = f"hot word {phrase!r}: its weight must be a number from -100 to 100, got {weight!r}"
            raise ApiError(400, message, param="hotwords")
        words = " ".join(phrase.split())
        unknown = sorted(set(words) - set(alphabet))
        if not words or unknown:
            reason = f"has {unknown[0]!r}, which the model cannot write" if unknown else "is empty"
            raise ApiError(400, f"hot word {phrase!r} {reason}: it writes {alphabet!r}", param="hotwords")
        weights[words] = float(weight)
    return weights
