"""English transcripts as NVIDIA's Jasper cleans them: numbers, abbreviations and symbols in words.

`exact` gives what their code gives, mistakes included; without it these are put right:

- a time's minutes of 00 are one zero, as they document it: "8:00" is "eight zero", not "eight zero zero";
- decimals are read digit by digit: "3.14" is "three point one four", not "three point fourteen";
- pounds are read, not lost: "£3" is "three pounds"; "$2.5" is "two dollars fifty cents", not "five cents";
- what the alphabet cannot write stays, so that the transcript can be refused, and does not vanish from it.
"""

import re
import unicodedata

from jasper_ray.text.normalize import UnicodeForm, normalize_text
from jasper_ray.text.numbers import cardinal, digits, ordinal, pairs

ABBREVIATIONS = {
    "mrs": "misess", "mr": "mister", "dr": "doctor", "st": "saint", "co": "company", "jr": "junior", "maj": "major",
    "gen": "general", "drs": "doctors", "rev": "reverend", "lt": "lieutenant", "hon": "honorable", "sgt": "sergeant",
    "capt": "captain", "esq": "esquire", "ltd": "limited", "col": "colonel", "ft": "fort",
}  # fmt: skip
ABBREVIATION = re.compile(rf"\b({'|'.join(ABBREVIATIONS)})\.")
SYMBOLS = {"&": " and ", "+": " plus "}
TIME = re.compile(r"(?<![\d:.,])([0-9]{1,2}):00(?![\d:])")
THOUSANDS = re.compile(r"[0-9][0-9,]+[0-9]")
POUNDS = re.compile(r"£([0-9]+)")
DOLLARS = re.compile(r"\$([0-9]+)(?:\.([0-9]+))?")
DECIMAL = re.compile(r"([0-9]+)\.([0-9]+)")
ORDINAL = re.compile(r"([0-9]+)(?:st|nd|rd|th)")
NUMBER = re.compile(r"[0-9]+")


def normalize_nvidia(text: str, alphabet: str, *, exact: bool = False, unicode_form: UnicodeForm = "NFC") -> str:
    """Lower case, numbers and abbreviations in words, accents off, punctuation to spaces.

    Args:
        text: Transcript as written, English.
        alphabet: Characters that are wanted.
        exact: Reproduce NVIDIA's mistakes (see above), for results that compare with theirs.
        unicode_form: As in `normalize_text`.

    Returns:
        Normalised text, empty if nothing is left.
    """
    text = _ascii_digits(unicodedata.normalize(unicode_form, text)).lower()
    if exact:
        text = text.replace("£", "")
    text = _numbers(text, exact=exact)
    text = ABBREVIATION.sub(lambda found: ABBREVIATIONS[found[1]] if exact else _abbreviation(found[1]), text)
    for symbol, word in SYMBOLS.items():
        if symbol not in alphabet:
            text = text.replace(symbol, word)
    text = normalize_text(text, alphabet)
    if exact:
        text = " ".join("".join(character for character in text if character in alphabet).split())
    return text


def _ascii_digits(text: str) -> str:
    """Digits of other scripts as ASCII ones."""
    return "".join(str(int(c)) if c.isdecimal() and not c.isascii() else c for c in text)


def _abbreviation(name: str) -> str:
    return "missus" if name == "mrs" else ABBREVIATIONS[name]


def _numbers(text: str, *, exact: bool) -> str:
    text = THOUSANDS.sub(lambda found: found[0].replace(",", ""), text)
    if not exact:
        text = TIME.sub(lambda found: f"{found[1]} 0", text)
        text = POUNDS.sub(lambda found: f"{found[1]} pound{'' if int(found[1]) == 1 else 's'}", text)
    text = DOLLARS.sub(lambda found: _dollars(found[1], found[2] or "", exact=exact), text)
    text = DECIMAL.sub(lambda found: _decimal(found[1], found[2], exact=exact), text)
    text = ORDINAL.sub(lambda found: ordinal(int(found[1])), text)
    return NUMBER.sub(lambda found: _number(found[0]), text)


def _dollars(whole: str, decimals: str, *, exact: bool) -> str:
    dollars, cents = int(whole), int(decimals if exact or len(decimals) != 1 else f"{decimals}0") if decimals else 0
    parts = [f"{dollars} dollar{'' if dollars == 1 else 's'}"] if dollars or not cents else []
    parts += [f"{cents} cent{'' if cents == 1 else 's'}"] if cents else []
    return " ".join(parts)


def _decimal(whole: str, decimals: str, *, exact: bool) -> str:
    return f"{whole} point {decimals if exact else digits(decimals)}"


def _number(written: str) -> str:
    """Years in two halves, long numbers such as those of telephones by digit, all others as a cardinal."""
    value = int(written)
    if written[0] == "0":
        return digits(written)
    if 1000 < value < 3000 and value != 2000 and not 2000 < value < 2010:
        return pairs(value) if value % 100 else f"{cardinal(value // 100)} hundred"
    if value > 1_000_000_000 and value % 10_000:
        return digits(written)
    return cardinal(value)
