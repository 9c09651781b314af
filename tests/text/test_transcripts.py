import pytest

from jasper_ray.config.data import PreparationConfig
from jasper_ray.config.speech import ENGLISH_ALPHABET
from jasper_ray.text.alphabet import Alphabet
from jasper_ray.text.transcripts import stored_text

CYRILLIC = " абвгдеёжзийклмнопрстуфхцчшщъыьэюя"
GERMAN = " abcdefghijklmnopqrstuvwxyzäöüß"


def stored(text: str, alphabet: str = ENGLISH_ALPHABET, **knobs: object) -> str:
    return stored_text(text, alphabet, PreparationConfig.model_validate(knobs))


@pytest.mark.parametrize(
    ("normalize", "expected"),
    [
        ("none", "Dr. Café: 8:00!"),
        ("basic", "dr cafe 8 00"),
        ("nvidia", "doctor cafe eight zero"),
        ("nvidia-exact", "doctor cafe eight zero zero"),
    ],
)
def test_a_transcript_is_cleaned_as_the_config_says(normalize: str, expected: str) -> None:
    assert stored("Dr. Café: 8:00!", normalize=normalize) == expected


@pytest.mark.parametrize(
    ("alphabet", "knobs", "written", "expected"),
    [
        (CYRILLIC, {}, "Ёлка, подъезд — Йод!", "ёлка подъезд йод"),
        (CYRILLIC.upper(), {"case": "upper"}, "Ёлка, подъезд — Йод!", "ЁЛКА ПОДЪЕЗД ЙОД"),
        (CYRILLIC.replace("ё", ""), {}, "Ёлка", "елка"),
        (GERMAN, {}, "Größe: Übung über Café", "größe übung über cafe"),
        (GERMAN.replace("ß", ""), {}, "Größe", "grösse"),
        (GERMAN, {"unicode_form": "NFKC"}, "ﬂach Ｔｅｅ", "flach tee"),
        (GERMAN, {"case": "keep"}, "der Tee", "der Tee"),
        (ENGLISH_ALPHABET.upper(), {"case": "upper"}, "It’s naïve", "IT'S NAIVE"),
    ],
)
def test_other_alphabets_keep_their_letters(
    alphabet: str, knobs: dict[str, object], written: str, expected: str
) -> None:
    text = stored(written, alphabet, **knobs)
    assert text == expected
    if knobs.get("case") != "keep":
        Alphabet(alphabet).encode(text)


@pytest.mark.parametrize("normalize", ["nvidia", "nvidia-exact"])
def test_case_is_not_a_choice_of_nvidias_cleaners(normalize: str) -> None:
    with pytest.raises(ValueError, match="case='upper' has no meaning with normalize='nvidia"):
        stored("x", normalize=normalize, case="upper")
