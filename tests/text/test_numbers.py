import pytest

from jasper_ray.text.numbers import cardinal, digits, ordinal, pairs


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (40, "forty"),
        (101, "one hundred one"),
        (1_000, "one thousand"),
        (12_345, "twelve thousand three hundred forty five"),
        (2_000_000_007, "two billion seven"),
    ],
)
def test_cardinals_have_no_and_and_no_hyphen(number: int, words: str) -> None:
    assert cardinal(number) == words


@pytest.mark.parametrize(
    ("number", "words"),
    [(1, "first"), (12, "twelfth"), (20, "twentieth"), (100, "one hundredth"), (43, "forty third")],
)
def test_ordinals_follow_from_the_last_word(number: int, words: str) -> None:
    assert ordinal(number) == words


def test_digits_and_pairs_are_read_one_after_another() -> None:
    assert digits("0090") == "zero zero nine zero"
    assert pairs(1066) == "ten sixty six"
    assert cardinal(10**40) == "one" + " zero" * 40
