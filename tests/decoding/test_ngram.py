import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from jasper_ray.decoding.ngram import BEGIN, END, UNKNOWN, NgramModel, estimate_ngrams

TEXT = """the cat sat on the mat
the dog sat on the log
a cat and a dog sat
the cat saw the dog and the dog saw the cat
on the mat the cat sat and sat
a dog on a log saw a cat on a mat
the mat and the log
so the cat sat""".splitlines()
SENTENCES = [line.split() for line in TEXT]


def probability(model: NgramModel, history: list[str], word: str) -> float:
    """What a reader of the ARPA file computes: the longest n-gram there is, with back-off weights before it."""
    table: dict[tuple[str, ...], tuple[float, float]] = {}
    for order in model.orders:
        for row in np.flatnonzero(order.kept):
            words = tuple(model.vocabulary[number] for number in order.words[row])
            table[words] = (float(order.log10_probs[row]), float(order.log10_backoffs[row]))
    weight = 0.0
    context = tuple(history[-(len(model.orders) - 1) :]) if len(model.orders) > 1 else ()
    while True:
        if (*context, word) in table:
            return 10 ** (weight + table[(*context, word)][0])
        weight += table[context][1] if context in table else 0.0
        context = context[1:]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("prune", [(), (0, 1)])
def test_the_probabilities_after_any_history_sum_to_one(order: int, prune: tuple[int, ...]) -> None:
    model = estimate_ngrams(SENTENCES, order=order, prune=prune)
    predicted = [word for word in model.vocabulary if word != BEGIN]
    for history in ([BEGIN], [BEGIN, "the"], ["the", "cat"], ["cat", "sat", "on"], ["never", "heard"], [UNKNOWN]):
        total = sum(probability(model, history, word) for word in predicted)
        assert total == pytest.approx(1.0, abs=1e-9), history


def test_bigrams_are_those_of_a_computation_by_hand() -> None:
    """Chen and Goodman's formulas over dictionaries, with the fallback discounts that so small a text gets."""
    sentences = [["a", "b"], ["a", "a"]]
    model = estimate_ngrams(sentences, order=2)
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for sentence in sentences:
        for pair in zip([BEGIN, *sentence], [*sentence, END], strict=True):
            counts[pair] += 1
    discount = {1: 0.5, 2: 1.0, 3: 1.5}
    before = {word: len({left for left, right in counts if right == word}) for word in ("a", "b", END)}
    total = sum(before.values())
    freed = sum(discount[min(count, 3)] for count in before.values()) / total

    def single(word: str) -> float:
        return (before[word] - discount[min(before[word], 3)]) / total + freed / 4  # a, b, </s>, <unk>

    def pair(left: str, right: str) -> float:
        of_left = {r: count for (first, r), count in counts.items() if first == left}
        back = sum(discount[min(count, 3)] for count in of_left.values()) / sum(of_left.values())
        count = of_left[right]
        return (count - discount[min(count, 3)]) / sum(of_left.values()) + back * single(right)

    for left, right in counts:
        assert probability(model, [left], right) == pytest.approx(pair(left, right))


def test_pruning_drops_rare_ngrams_and_keeps_every_word() -> None:
    whole, pruned = estimate_ngrams(SENTENCES, order=3), estimate_ngrams(SENTENCES, order=3, prune=(0, 1))
    assert pruned.num_ngrams[0] == whole.num_ngrams[0]
    assert pruned.num_ngrams[1] < whole.num_ngrams[1]
    assert pruned.num_ngrams[2] < whole.num_ngrams[2]


def test_the_arpa_file_says_how_many_ngrams_follow() -> None:
    lines = list(estimate_ngrams(SENTENCES, order=2).arpa_lines())
    pairs = int(lines[2].partition("=")[2])
    start = lines.index("\\2-grams:")
    assert lines[start + 1 + pairs :] == ["", "\\end\\"]
    assert any(line.split("\t")[1] == "the cat" for line in lines[start + 1 : start + 1 + pairs])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order": 0}, "order must be in 1 to 6, got 0"),
        ({"order": 7}, "order must be in 1 to 6, got 7"),
        ({"order": 2, "prune": (1,)}, "begin with 0"),
        ({"order": 3, "prune": (0, 2, 1)}, "not fall"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate_ngrams(SENTENCES, **arguments)  # type: ignore[arg-type]


def test_reserved_words_and_empty_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="'<s>' is reserved"):
        estimate_ngrams([["a", "<s>"]], order=2)
    with pytest.raises(ValueError, match="no words"):
        estimate_ngrams([[], []], order=2)


def entries(lines: list[str]) -> dict[str, list[float]]:
    """Log-probability and back-off weight by n-gram."""
    rows = [line.split("\t") for line in lines]
    return {row[1]: [float(row[0]), *map(float, row[2:])] for row in rows if len(row) >= 2}


@pytest.mark.realpeer
@pytest.mark.parametrize(("order", "prune"), [(3, ()), (4, (0, 0, 1))])
def test_the_model_is_the_one_that_lmplz_estimates(
    order: int, prune: tuple[int, ...], speech_data: Path, tmp_path: Path
) -> None:
    lmplz = shutil.which("lmplz")
    if lmplz is None:
        pytest.skip("lmplz is not installed: build it from the source of the package kenlm (cmake, boost) onto PATH")
    text = speech_data / "text" / "librispeech_train_clean_100.txt"
    pruning = ["--prune", *map(str, prune)] if prune else []
    command = [lmplz, "-o", str(order), "-S", "1G", "-T", str(tmp_path), *pruning]
    with text.open("rb") as file:
        expected = subprocess.run(command, stdin=file, capture_output=True, check=True, timeout=120).stdout.decode()
    model = estimate_ngrams((line.split() for line in text.read_text().splitlines()), order=order, prune=prune)
    ours, theirs = entries(list(model.arpa_lines())), entries(expected.splitlines())
    assert ours.keys() == theirs.keys()
    for words, figures in theirs.items():
        mine = ours[words]
        assert mine == pytest.approx(figures[: len(mine)], abs=2e-6), words
