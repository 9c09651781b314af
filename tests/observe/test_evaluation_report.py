import json
import re
from itertools import pairwise

import numpy as np
import pytest

from jasper_ray.decoding.alignment import WordSpan
from jasper_ray.decoding.confidence import Calibration
from jasper_ray.observe.evaluation_page import Clip, evaluation_page
from jasper_ray.observe.evaluation_report import Judged, evaluation_report, summary
from jasper_ray.text.wer import count_errors

REFERENCES = ["the cat sat", "the dog", "it's here", "every one", "a b c d"]
HYPOTHESES = ["the hat sat", "dog", "its here", "everyone", "a b c d"]


def judged(**changes: object) -> Judged:
    columns = {
        "ids": [f"u{number}" for number in range(5)],
        "references": REFERENCES,
        "hypotheses": HYPOTHESES,
        "speakers": ["ann", "ann", "bob", "<eve>", ""],
        "durations_s": np.array([1.0, 3.0, 3.5, 9.0, 30.0]),
        "datasets": ["one", "one", "two", "two", "two"],
    }
    return Judged(**{**columns, **changes})  # type: ignore[arg-type]


def test_the_figures_are_those_of_the_evaluation() -> None:
    report = evaluation_report(judged(), title="t")
    errors = count_errors(REFERENCES, HYPOTHESES)
    assert report.wer.rate == errors.wer
    assert report.cer.rate == errors.cer
    assert report.words == {"references": 13, "substitutions": 3, "deletions": 2, "insertions": 0}
    assert report.wer.low <= report.wer.rate <= report.wer.high
    assert report.utterances[1] == ("u1", 1, 2)


@pytest.mark.parametrize("kind", ["speaker", "dataset", "duration", "signal-to-noise ratio"])
def test_every_grouping_holds_every_utterance_once(kind: str) -> None:
    report = evaluation_report(judged(snr_db=np.array([0.0, 12.0, 80.0, 30.0, 22.0])), title="t")
    groups = report.groups[kind]
    assert sum(group.num_utterances for group in groups) == 5
    assert sum(group.num_words for group in groups) == 13
    assert sum(round(group.wer.rate * group.num_words) for group in groups) == 5


def test_what_became_of_what_and_the_worst_are_named() -> None:
    report = evaluation_report(judged(), title="t")
    assert ("cat", "hat", 1) in report.confused_words
    assert ("the", 1) in report.deleted_words
    assert ("c", "h", 1) in report.confused_characters
    assert ("'", "", 1) in report.confused_characters
    assert [item.id for item in report.worst] == ["u3", "u0", "u1", "u2"]
    assert report.worst[1].edits == [("equal", "the", "the"), ("substitute", "cat", "hat"), ("equal", "sat", "sat")]


def test_other_ways_to_compare_forgive_what_they_say() -> None:
    rates = evaluation_report(judged(), title="t").normalizations
    assert rates["as they are"] == 5 / 13
    assert rates["without apostrophes"] == 4 / 13
    assert rates["utterances that differ in spaces only forgiven"] == 3 / 13


def test_another_recogniser_is_compared_over_the_utterances_of_both() -> None:
    report = evaluation_report(judged(), title="t", other={"u0": "the cat sat", "u1": "a dog"}, other_name="theirs")
    assert report.other_wer is not None and report.other_wer.rate == 1 / 5
    assert report.comparison is not None and report.comparison.difference.rate == pytest.approx(1 / 5)
    assert summary(report)["p_value"] > 0.05
    assert "could be chance" in evaluation_page(report, {})
    with pytest.raises(ValueError, match="theirs has a transcript of none of the 5 utterances"):
        evaluation_report(judged(), title="t", other={"x": ""}, other_name="theirs")


def test_the_page_shows_the_figures_and_nothing_from_elsewhere() -> None:
    report = evaluation_report(judged(), title="<run> & co")
    clip = Clip([0.1, 1.0], [WordSpan("hat", 0.2, 0.5, 0.9)], b"fLaC")
    page = evaluation_page(report, {"u0": clip})
    assert "&lt;run&gt; &amp; co" in page and "&lt;eve&gt;" in page and "<eve>" not in page
    assert "38.46%" in page
    assert "<del>cat</del> <ins>hat</ins>" in page
    assert "data:audio/flac;base64,ZkxhQw==" in page
    assert not re.search(r"""(src|href)=['"]?(https?:)?//""", page)


def test_the_json_reads_back() -> None:
    report = evaluation_report(judged(), title="t")
    assert json.loads(report.json())["wer"]["rate"] == report.wer.rate


def test_a_perfect_evaluation_has_nothing_to_show() -> None:
    report = evaluation_report(judged(hypotheses=REFERENCES), title="t")
    assert report.worst == [] and report.wer.high == 0
    assert "added: nothing" in evaluation_page(report, {})


def test_confidences_are_shown_beside_what_they_keep() -> None:
    words = [
        [WordSpan(word, 0.0, 1.0, 0.9 if word in reference.split() else 0.4, 0.1) for word in hypothesis.split()]
        for reference, hypothesis in zip(REFERENCES, HYPOTHESES, strict=True)
    ]
    plain = evaluation_report(judged(words=words), title="t")
    assert plain.confidence is not None and plain.uncalibrated_error is None
    assert plain.confidence.num_words == 11
    assert summary(plain)["calibration_error"] == plain.confidence.error
    never = Calibration(scale=0.0, entropy_weight=0.0, offset=0.0, num_words=1)  # everything is a coin's throw
    thrown = evaluation_report(judged(words=words, calibration=never), title="t")
    assert thrown.confidence is not None and [one.confidence for one in thrown.confidence.bins] == [0.5]
    assert thrown.uncalibrated_error == plain.confidence.error
    page = evaluation_page(thrown, {})
    assert "Confidence of words" in page and f"{plain.confidence.error:.3f} before the calibration" in page
    assert json.loads(thrown.json())["confidence"]["bins"][0]["num_words"] == 11
    assert "Confidence of words" not in evaluation_page(evaluation_report(judged(), title="t"), {})


def test_words_under_a_waveform_do_not_lie_on_one_another() -> None:
    report = evaluation_report(judged(), title="t")
    words = [WordSpan("therefore", 0.01 * number, 0.01 * number + 0.01, 1.0) for number in range(30)]
    page = evaluation_page(report, {"u0": Clip([0.5] * 10, words)})
    places = [(float(x), int(y)) for x, y in re.findall(r"<text x='([\d.]+)' y='(\d+)'>therefore", page)]
    assert len(places) == 30 and len({y for _, y in places}) > 5
    for y in {y for _, y in places}:
        on_line = sorted(x for x, other in places if other == y)
        assert all(b - a >= 9 * 6 for a, b in pairwise(on_line))
