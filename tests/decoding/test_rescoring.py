import math
from pathlib import Path

import numpy as np
import pytest
import torch

from jasper_ray.config.decoding import DecodingConfig
from jasper_ray.decoding.beam import Hypothesis
from jasper_ray.decoding.decoder import BeamSearch
from jasper_ray.decoding.neural import NeuralConfig, train_neural_model
from jasper_ray.decoding.rescoring import NeuralLanguageModel, build_rescorer, ranked
from jasper_ray.errors import DataError
from jasper_ray.text.alphabet import Alphabet

transformers = pytest.importorskip("transformers", reason="the extra [rescoring] is not installed")

TEXT = ["the cat sat on the mat", "a dog ran", "the dog sat on the cat", "a cat ran on the road"] * 40
SMALL = NeuralConfig(
    num_pieces=300,
    layers=1,
    width=32,
    heads=2,
    dropout=0,
    block_tokens=16,
    batch_blocks=8,
    epochs=10,
    lr=1e-2,
    held_out=20,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("neural")
    figures = train_neural_model(TEXT, str(path), SMALL, device="cpu", report=lambda *_: None)
    assert figures.perplexity < 8  # of some 9 words in four sentences
    return path


def test_a_trained_model_prefers_sentences_like_its_text(folder: Path) -> None:
    model = NeuralLanguageModel(str(folder))
    good, shuffled = model.log_probs(["the cat sat on the mat", "mat the on sat cat the"])
    assert shuffled < good < 0


def test_scores_are_sums_over_tokens_and_the_same_alone_or_together(folder: Path) -> None:
    model = NeuralLanguageModel(str(folder))
    sentences = ["a dog ran", "the cat sat on the mat", "", "a", "the dog sat on the cat"]
    together = model.log_probs(sentences)
    assert together == pytest.approx([model.log_probs([one])[0] for one in sentences], abs=1e-4)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    network = transformers.AutoModelForCausalLM.from_pretrained(folder)
    ids = [tokenizer.bos_token_id, *tokenizer.encode("a dog ran"), tokenizer.eos_token_id]
    with torch.inference_mode():
        log_probs = torch.log_softmax(network(torch.tensor([ids])).logits[0], dim=1)
    by_hand = sum(float(log_probs[position, ids[position + 1]]) for position in range(len(ids) - 1))
    assert together[0] == pytest.approx(by_hand, abs=1e-4)


def test_a_training_repeats(folder: Path, tmp_path: Path) -> None:
    train_neural_model(TEXT, str(tmp_path), SMALL, device="cpu", report=lambda *_: None)
    both = [NeuralLanguageModel(str(path)).log_probs(["a cat ran"])[0] for path in (folder, tmp_path)]
    assert both[0] == pytest.approx(both[1], abs=1e-5)


def test_ranking_adds_the_neural_score_and_exchanges_the_weight_of_the_n_grams() -> None:
    found = [Hypothesis("x", -10.0, -4.0), Hypothesis("y", -11.0, -2.0)]
    first = ranked(found, [-6.0, -3.0], lm_weight=0.5, rescoring_weight=1.0, rescoring_lm_weight=0.25)
    assert [(one.text, one.score, one.neural_score) for one in first] == [
        ("y", pytest.approx(-11 + 0.25 * 2 - 3), -3.0),
        ("x", pytest.approx(-10 + 0.25 * 4 - 6), -6.0),
    ]
    unchanged = ranked(found, [-6.0, -3.0], lm_weight=0.5, rescoring_weight=0.0, rescoring_lm_weight=0.5)
    assert [one.text for one in unchanged] == ["x", "y"] and unchanged[0].score == -10.0


def test_a_search_that_ranks_anew_writes_what_the_neural_model_prefers(folder: Path) -> None:
    alphabet = Alphabet(" abcdehmnorst")
    labels = [label for character in "the cat san" for label in (alphabet.encode(character)[0], alphabet.blank)]
    scores = np.full((len(labels), alphabet.num_labels), -9.0, dtype=np.float32)
    scores[np.arange(len(labels)), labels] = -0.01
    scores[20, [alphabet.labels.index(letter) for letter in "nt"]] = math.log(0.55), math.log(0.45)
    config = DecodingConfig(method="beam", lexicon=False, num_best=10)
    plain = BeamSearch(alphabet, config)
    assert plain.search([scores])[0][0].text == "the cat san"
    plain.close()
    anew = BeamSearch(alphabet, config.model_copy(update={"rescoring_model": str(folder), "rescoring_weight": 1.0}))
    (found,) = anew.search([scores], num_best=3)
    anew.close()
    assert found[0].text == "the cat sat" and found[0].neural_score < 0 and len(found) == 3
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)


def test_what_is_no_language_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no config\.json"):
        NeuralLanguageModel(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    with pytest.raises(DataError, match="cannot be read as a causal language model"):
        NeuralLanguageModel(str(tmp_path))
    with pytest.raises(ValueError, match="needs method=beam"):
        DecodingConfig(rescoring_model="x")
    assert build_rescorer(DecodingConfig(method="beam")) is None


def test_a_sentence_longer_than_the_model_reads_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="the language model reads 1024"):
        NeuralLanguageModel(str(folder)).log_probs(["cat " * 3000])
