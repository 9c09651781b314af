import pytest

from jasper_ray.config.speech import ENGLISH_ALPHABET
from jasper_ray.text.alphabet import Alphabet


def test_labels_are_numbered_in_order_and_the_blank_comes_last() -> None:
    alphabet = Alphabet(ENGLISH_ALPHABET)
    assert alphabet.encode(" a'z") == [0, 1, 27, 26]
    assert alphabet.blank == 28
    assert alphabet.num_labels == 29


def test_decoding_undoes_encoding() -> None:
    alphabet = Alphabet(ENGLISH_ALPHABET)
    assert alphabet.decode(alphabet.encode("it's a test")) == "it's a test"
    assert alphabet.decode([]) == ""


def test_unknown_characters_are_named() -> None:
    with pytest.raises(ValueError, match=r"\['4', 'É'\].*[Nn]ormalise"):
        Alphabet(ENGLISH_ALPHABET).encode("caf4 É")


def test_the_blank_cannot_be_decoded() -> None:
    with pytest.raises(ValueError, match=r"\[28\]"):
        Alphabet(ENGLISH_ALPHABET).decode([1, 28])


@pytest.mark.parametrize("labels", ["", "aba"])
def test_an_alphabet_with_doubled_or_no_characters_is_refused(labels: str) -> None:
    with pytest.raises(ValueError, match=r"each character once"):
        Alphabet(labels)


@pytest.mark.parametrize("labels", [" abc'", "äöü a", "ab?", "абв "])
def test_every_alphabet_encodes_its_own_characters_and_no_others(labels: str) -> None:
    alphabet = Alphabet(labels)
    assert alphabet.encode(labels) == list(range(len(labels)))
    for foreign in ("?", "€", "я", "z", "\xff"):
        if foreign not in labels:
            with pytest.raises(ValueError, match="outside the alphabet"):
                alphabet.encode(labels + foreign)
