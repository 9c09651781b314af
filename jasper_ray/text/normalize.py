"""Transcripts as people write them -> the characters that a model can write."""

import re
import unicodedata
from typing import Literal

Case = Literal["auto", "lower", "upper", "keep"]
UnicodeForm = Literal["NFC", "NFKC"]

# Marks that people type for an apostrophe. Between letters they are one; elsewhere they are quotation marks.
TYPOGRAPHIC_APOSTROPHE = re.compile("(?<=[^\\W\\d_])['\u2018\u2019\u201b\u02bc\u02b9\u2032\uff07`\u00b4](?=[^\\W\\d_])")
# Letters that Unicode does not take apart into a base letter and an accent.
LETTERS = {
    "ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "đ": "d", "ð": "d", "þ": "th", "ł": "l", "ı": "i", "ħ": "h", "ŋ": "ng",
}  # fmt: skip


def normalize_text(text: str, alphabet: str, *, case: Case = "auto", unicode_form: UnicodeForm = "NFC") -> str:
    """Lower case, accents off, punctuation to spaces, spaces collapsed.

    A character of the alphabet always stays. Other letters lose their accents if that makes them characters of the
    alphabet; other punctuation, symbols and controls become spaces. An apostrophe between letters, of whatever shape,
    becomes the plain one, or vanishes if the alphabet has none. What is left outside
    the alphabet (digits, letters of other scripts) is kept, so that the caller sees it and can refuse the transcript
    with `Alphabet.encode`, instead of training on a text with holes.

    Args:
        text: Transcript as written.
        alphabet: `TextConfig.alphabet`.
        case: `auto` is lower case, unless the alphabet has capital letters: then they are kept as written.
        unicode_form: `NFKC` also takes apart ligatures, full-width letters, superscripts and the like.

    Returns:
        Normalised text, empty if nothing is left.
    """
    known = set(alphabet)
    text = unicodedata.normalize(unicode_form, text)
    if case == "upper":
        text = text.upper()
    # An alphabet with capital letters wants them; without, everything is lower case.
    elif case == "lower" or (case == "auto" and not any(character.isupper() for character in known)):
        text = text.lower()
    apostrophe = "'" if "'" in known else ""
    text = TYPOGRAPHIC_APOSTROPHE.sub(lambda mark: mark[0] if mark[0] in known else apostrophe, text)
    written = (_normalize_character(character, known) for character in unicodedata.normalize("NFC", text))
    return " ".join("".join(written).split())


def _normalize_character(character: str, known: set[str]) -> str:
    if character in known:
        return character
    plain = LETTERS.get(character) or _without_accents(character)
    if plain and all(part in known for part in plain):
        return plain
    category = unicodedata.category(character)
    if category in ("Mn", "Cf"):  # accents that NFC could not join to a letter; soft hyphens and joiners
        return ""
    return " " if category[0] in "PSZC" else character


def _without_accents(character: str) -> str:
    return "".join(part for part in unicodedata.normalize("NFKD", character) if not unicodedata.combining(part))
