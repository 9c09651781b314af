import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jasper_ray.config.decoding import DecodingConfig
from jasper_ray.decoding.beam import BeamDecoder
from jasper_ray.decoding.language_model import LanguageModel, build_language_model, load_language_model
from jasper_ray.errors import ConfigError
from jasper_ray.model.ctc import greedy_decode
from jasper_ray.text.alphabet import Alphabet

ALPHABET = Alphabet(" abcdehklnorstwy")
TEXT = ["the cat sat on the sand", "the cat sat", "a cat", "the coast road", "on the road", "the sand", "the cat ran"]


def log_probs_of(num_frames: int, num_labels: int, seed: int, sharpness: float = 2.0) -> torch.Tensor:
    values = torch.randn(num_frames, num_labels, generator=torch.Generator().manual_seed(seed)) * sharpness
    return torch.log_softmax(values, dim=1)


def spoken(text: str, *, seed: int = 0, noise: float = 0.0, alphabet: Alphabet = ALPHABET) -> np.ndarray:
    """Frames of a text, each label for one frame with a blank behind it."""
    labels = [label for character in text for label in (alphabet.encode(character)[0], alphabet.blank)]
    values = torch.randn(len(labels), alphabet.num_labels, generator=torch.Generator().manual_seed(seed)) * noise
    values[torch.arange(len(labels)), torch.tensor(labels)] += 5.0
    return torch.log_softmax(values, dim=1).numpy()


def exhaustive(log_probs: np.ndarray, alphabet: Alphabet) -> list[tuple[str, float]]:
    """Every text and the log of its probability, best first."""
    scores: dict[str, float] = {}
    for path in itertools.product(range(alphabet.num_labels), repeat=len(log_probs)):
        labels = [label for label, _ in itertools.groupby(path) if label != alphabet.blank]
        text = " ".join(alphabet.decode(labels).split())
        score = float(sum(log_probs[frame, label] for frame, label in enumerate(path)))
        scores[text] = float(np.logaddexp(scores.get(text, -np.inf), score))
    return sorted(scores.items(), key=lambda item: -item[1])


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("words")
    build_language_model(TEXT, str(folder), order=2)
    return load_language_model(str(folder))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("tiny")
    build_language_model(["a b", "ab a", "b", "a ab b", "ba ab", "b a"] * 2, str(folder), order=2)
    return load_language_model(str(folder))


@pytest.fixture(scope="module")
def characters(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("characters")
    build_language_model(TEXT, str(folder), order=4, unit="character")
    return load_language_model(str(folder))


@settings(max_examples=40, deadline=None)
@given(labels=st.sampled_from(["ab", "a b"]), num_frames=st.integers(1, 5), seed=st.integers(0, 9999))
def test_a_wide_beam_finds_what_trying_everything_finds(labels: str, num_frames: int, seed: int) -> None:
    alphabet = Alphabet(labels)
    log_probs = log_probs_of(num_frames, alphabet.num_labels, seed).numpy()
    decoder = BeamDecoder(alphabet, DecodingConfig(method="beam", beam_width=5000, beam_threshold=1e6))
    found = decoder.decode(log_probs, num_best=4)
    expected = exhaustive(log_probs, alphabet)[:4]
    assert [hypothesis.score for hypothesis in found] == pytest.approx([score for _, score in expected], abs=1e-4)
    assert [hypothesis.text for hypothesis in found] == [text for text, _ in expected]


def arpa_log_prob(path: Path, words: list[str]) -> float:
    """Natural log of the probability of a sentence by the file's own figures, backing off by hand."""
    found: dict[tuple[str, ...], tuple[float, float]] = {}
    for line in path.read_text().splitlines():
        fields = line.split("\t")
        if len(fields) >= 2:
            found[tuple(fields[1].split())] = (float(fields[0]), float(fields[2]) if len(fields) > 2 else 0.0)

    def log10(context: tuple[str, ...], word: str) -> float:
        if (*context, word) in found:
            return found[(*context, word)][0]
        return found.get(context, (0.0, 0.0))[1] + log10(context[1:], word)

    sentence = ["<s>", *words, "</s>"]
    order = max(map(len, found))
    total = sum(log10(tuple(sentence[max(0, at - order + 1) : at]), sentence[at]) for at in range(1, len(sentence)))
    return total * float(np.log(10))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    num_frames=st.integers(1, 6),
    seed=st.integers(0, 9999),
    lm_weight=st.sampled_from([0.3, 1.0, 2.0]),
    bonus=st.sampled_from([-1.0, 0.0, 1.5]),
)
def test_with_words_n_grams_and_bonus_a_wide_beam_finds_what_trying_everything_finds(
    tiny: LanguageModel, num_frames: int, seed: int, lm_weight: float, bonus: float
) -> None:
    alphabet = Alphabet(" ab")
    log_probs = log_probs_of(num_frames, alphabet.num_labels, seed, sharpness=1.5).numpy()
    config = DecodingConfig(method="beam", beam_width=5000, beam_threshold=1e6, lm_weight=lm_weight, word_bonus=bonus)
    expected = sorted(
        (
            (text, score + lm_weight * arpa_log_prob(tiny.path, text.split()) + bonus * len(text.split()))
            for text, score in exhaustive(log_probs, alphabet)
            if set(text.split()) <= set(tiny.words)
        ),
        key=lambda item: -item[1],
    )[:3]
    found = BeamDecoder(alphabet, config, tiny).decode(log_probs, num_best=3)
    assert [hypothesis.score for hypothesis in found] == pytest.approx([score for _, score in expected], abs=1e-3)
    assert [hypothesis.text for hypothesis in found] == [text for text, _ in expected]


@settings(max_examples=40, deadline=None)
@given(num_frames=st.integers(1, 30), seed=st.integers(0, 9999))
def test_a_beam_of_one_without_a_model_is_greedy_decoding(num_frames: int, seed: int) -> None:
    alphabet = Alphabet("a bc")
    log_probs = log_probs_of(num_frames, alphabet.num_labels, seed)
    decoder = BeamDecoder(alphabet, DecodingConfig(method="beam", beam_width=1, alignments="best"))
    (labels,) = greedy_decode(log_probs[None], torch.tensor([num_frames]), blank=alphabet.blank)
    (best,) = decoder.decode(log_probs.numpy())
    assert best.text == " ".join(alphabet.decode(labels).split())


def test_in_a_lexicon_only_its_words_are_written(words: LanguageModel) -> None:
    decoder = BeamDecoder(ALPHABET, DecodingConfig(method="beam", lm_weight=1.0), words)
    for seed in range(5):
        (best,) = decoder.decode(spoken("the cat sat on the road", seed=seed, noise=1.5))
        assert set(best.text.split()) <= set(words.words)
    assert decoder.decode(spoken("the cats sat"))[0].text.split()[0] == "the"


def test_the_last_word_needs_no_space_behind_it(words: LanguageModel) -> None:
    decoder = BeamDecoder(ALPHABET, DecodingConfig(method="beam"), words)
    assert decoder.decode(spoken("the cat"))[0].text == "the cat"
    assert decoder.decode(spoken("the cat "))[0].text == "the cat"
    assert decoder.decode(spoken(" the cat"))[0].text == "the cat"


@pytest.mark.parametrize("unit", ["words", "characters"])
@pytest.mark.parametrize("lexicon", [True, False])
def test_a_language_model_decides_what_the_sound_leaves_open(
    unit: str, lexicon: bool, request: pytest.FixtureRequest
) -> None:
    model: LanguageModel = request.getfixturevalue(unit)
    if unit == "words" and not lexicon:
        with pytest.raises(ConfigError, match="needs a language model of characters"):
            BeamDecoder(ALPHABET, DecodingConfig(method="beam", lexicon=False), model)
        return
    log_probs = spoken("the cat")
    c, h = (ALPHABET.labels.index(label) for label in "ch")
    log_probs[8, [c, h]] = np.log(0.45), np.log(0.5)  # "hat" is a little more likely than "cat"
    weak = DecodingConfig(method="beam", lexicon=lexicon and unit == "words", lm_weight=0.0)
    strong = DecodingConfig(method="beam", lexicon=lexicon, lm_weight=1.0)
    if not (lexicon and unit == "words"):
        assert BeamDecoder(ALPHABET, weak, model).decode(log_probs)[0].text == "the hat"
    best = BeamDecoder(ALPHABET, strong, model).decode(log_probs)[0]
    assert best.text == "the cat"
    assert best.lm_score < 0


def test_scores_are_acoustics_plus_weighted_language_model_plus_bonus(words: LanguageModel) -> None:
    log_probs = spoken("a cat")
    scores = {}
    for lm_weight, bonus in ((0.5, 0.0), (1.5, 0.0), (0.5, 2.0)):
        config = DecodingConfig(method="beam", lm_weight=lm_weight, word_bonus=bonus, alignments="best")
        best = BeamDecoder(ALPHABET, config, words).decode(log_probs)[0]
        assert best.text == "a cat"
        scores[lm_weight, bonus] = (best.score, best.lm_score)
    lm_score = scores[0.5, 0.0][1]
    assert scores[1.5, 0.0][0] - scores[0.5, 0.0][0] == pytest.approx(1.0 * lm_score, abs=1e-3)
    assert scores[0.5, 2.0][0] - scores[0.5, 0.0][0] == pytest.approx(2 * 2.0, abs=1e-3)


def test_hypotheses_differ_and_fall_in_score(words: LanguageModel) -> None:
    decoder = BeamDecoder(ALPHABET, DecodingConfig(method="beam"), words)
    found = decoder.decode(spoken("the road", noise=2.0), num_best=5)
    assert len({hypothesis.text for hypothesis in found}) == len(found) > 1
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)


def test_hot_words_win_where_the_sound_is_close(words: LanguageModel, characters: LanguageModel) -> None:
    log_probs = spoken("the coast")
    for frame, (said, hot) in zip((14, 16), (("s", "n"), ("t", "e")), strict=True):
        said_at, hot_at = ALPHABET.labels.index(said), ALPHABET.labels.index(hot)
        log_probs[frame, [said_at, hot_at]] = np.log(0.6), np.log(0.35)
    for model, lexicon in ((words, True), (characters, True), (characters, False), (None, False)):
        decoder = BeamDecoder(ALPHABET, DecodingConfig(method="beam", lexicon=lexicon, lm_weight=0.3), model)
        assert decoder.decode(log_probs)[0].text == "the coast"
        hot = decoder.decode(log_probs, hotwords={"coane": 8.0})[0].text
        assert hot == "the coane", (model and model.config.unit, lexicon)
        assert decoder.decode(log_probs)[0].text == "the coast", "a request leaves nothing behind"


def test_a_phrase_that_is_not_finished_gains_nothing(characters: LanguageModel) -> None:
    decoder = BeamDecoder(ALPHABET, DecodingConfig(method="beam", lexicon=False), characters)
    log_probs = spoken("the cat sat")
    plain = decoder.decode(log_probs)[0]
    hot = decoder.decode(log_probs, hotwords={"the cat ran": 3.0, "sa": 2.0})[0]
    assert (hot.text, hot.score) == (plain.text, pytest.approx(plain.score, abs=1e-3))


def test_what_does_not_go_together_is_refused(words: LanguageModel) -> None:
    with pytest.raises(ConfigError, match="none of the 9 words of the lexicon can be written"):
        BeamDecoder(Alphabet(" xyz"), DecodingConfig(method="beam"), words)
    with pytest.raises(ConfigError, match=r"word_bonus=1\.0 needs a search in a lexicon"):
        BeamDecoder(ALPHABET, DecodingConfig(method="beam", lexicon=False, word_bonus=1.0))
    decoder = BeamDecoder(ALPHABET, DecodingConfig(method="beam"), words)
    with pytest.raises(ValueError, match="outside the alphabet"):
        decoder.decode(spoken("a"), hotwords={"xylophone": 1.0})
    with pytest.raises(ValueError, match=r"log_probs must be \(T, 17\), got \(3, 4\)"):
        decoder.decode(np.zeros((3, 4), dtype=np.float32))


def test_no_frames_are_an_empty_transcript(words: LanguageModel) -> None:
    decoder = BeamDecoder(ALPHABET, DecodingConfig(method="beam"), words)
    assert decoder.decode(np.zeros((0, 17), dtype=np.float32))[0].text == ""


def test_a_model_folder_on_a_store_is_fetched(s3_bucket: str, tmp_path: Path) -> None:
    uri = f"{s3_bucket}/language-model"
    build_language_model(TEXT, uri, order=2, source="test")
    model = load_language_model(uri, tmp_path)
    assert model.path.parent == tmp_path
    assert model.config.source == "test"
    assert BeamDecoder(ALPHABET, DecodingConfig(method="beam"), model).decode(spoken("a cat"))[0].text == "a cat"
