import pytest
from hypothesis import given, strategies

from jasper_ray.config.speech import ENGLISH_ALPHABET
from jasper_ray.text.normalize import normalize_text


@pytest.mark.parametrize(
    ("written", "normalized"),
    [
        ("Hello, World!", "hello world"),
        ("  double   space\t\n", "double space"),
        ("well-known", "well known"),
        ("café naïve Straße Œuvre", "cafe naive strasse oeuvre"),
        ("it’s don`t O＇Neil", "it's don't o'neil"),
        ("‘quoted’ — “twice”", "quoted twice"),
        ("'tis the dogs' day", "'tis the dogs' day"),
        ("e\u0301tude soft\u00adhyphen", "etude softhyphen"),
        ("...", ""),
        ("", ""),
    ],
)
def test_transcripts_become_labels(written: str, normalized: str) -> None:
    assert normalize_text(written, ENGLISH_ALPHABET) == normalized


@pytest.mark.parametrize(("written", "kept"), [("room 12", "room 12"), ("Привет", "привет"), ("½", "½")])
def test_what_the_alphabet_cannot_write_stays_to_be_refused(written: str, kept: str) -> None:
    assert normalize_text(written, ENGLISH_ALPHABET) == kept


def test_without_apostrophe_in_the_alphabet_words_do_not_fall_apart() -> None:
    assert normalize_text("it's don’t", ENGLISH_ALPHABET[:-1]) == "its dont"


def test_an_alphabet_may_hold_accents_capitals_and_punctuation() -> None:
    assert normalize_text("Früh, ja!", " abcdefghijklmnopqrstuvwxyzäöüß,") == "früh, ja"
    assert normalize_text("Früh", " Fhrüu") == "Früh"


@given(strategies.text())
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    once = normalize_text(text, ENGLISH_ALPHABET)
    assert normalize_text(once, ENGLISH_ALPHABET) == once
