import json
import os
from pathlib import Path

import pytest

from jasper_ray.config.speech import ENGLISH_ALPHABET
from jasper_ray.text.alphabet import Alphabet
from jasper_ray.text.nvidia import normalize_nvidia

FIXTURES = Path(os.environ.get("JASPER_FIXTURES", Path(__file__).parents[3] / "shared" / "reference" / "fixtures"))
MISTAKES = {
    "call me at 8:00 pm!": "call me at eight zero pm",
    "3.14159": "three point one four one five nine",
    "It cost $12.50 and £3,000.": "it cost twelve dollars fifty cents and three thousand pounds",
}


@pytest.fixture(scope="module")
def cases() -> list[dict[str, object]]:
    path = FIXTURES / "text_normalization.json"
    if not path.exists():
        pytest.skip(f"no {path}")
    return list(json.loads(path.read_text()))


def test_every_text_becomes_what_nvidias_code_makes_of_it(cases: list[dict[str, object]]) -> None:
    ours = [normalize_nvidia(str(case["in"]), ENGLISH_ALPHABET, exact=True) for case in cases]
    assert ours == [case["out"] for case in cases]
    assert [Alphabet(ENGLISH_ALPHABET).encode(text) for text in ours] == [case["ids"] for case in cases]


def test_without_the_switch_only_the_mistakes_are_put_right(cases: list[dict[str, object]]) -> None:
    ours = {str(case["in"]): normalize_nvidia(str(case["in"]), ENGLISH_ALPHABET) for case in cases}
    assert ours == {str(case["in"]): case["out"] for case in cases} | MISTAKES


@pytest.mark.parametrize(
    ("written", "normalized"),
    [
        ("$1 $2.5 $0.99 £1", "one dollar two dollars fifty cents ninety nine cents one pound"),
        ("1905, 1,000,000 and 12th", "nineteen oh five one million and twelfth"),
        ("8:00, 18:05 and 3:00:00", "eight zero eighteen zero five and three zero zero zero zero"),
        ("Mrs. Müller’s cats", "missus muller's cats"),
        ("x" + "9" * 40, "x" + " ".join(["nine"] * 40)),
    ],
)
def test_numbers_are_read_as_people_read_them(written: str, normalized: str) -> None:
    assert normalize_nvidia(written, ENGLISH_ALPHABET) == normalized


def test_what_the_alphabet_cannot_write_is_kept_to_be_refused_unless_exact() -> None:
    assert normalize_nvidia("ok привет", ENGLISH_ALPHABET) == "ok привет"
    assert normalize_nvidia("ok привет", ENGLISH_ALPHABET, exact=True) == "ok"
