"""Why a word error rate is what it is, as figures: `report.json` of an evaluation."""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from jasper_ray.decoding.alignment import WordSpan
from jasper_ray.decoding.confidence import Calibration, Reliability, correct_words, reliability
from jasper_ray.text.confidence import Comparison, Interval, compare_rates, rate_interval
from jasper_ray.text.edits import EditTable, count_edits, word_edits
from jasper_ray.text.wer import count_errors

MAX_CONFUSIONS = 50
MAX_WORST = 30
MAX_GROUPS = 200
DURATION_EDGES_S = (0.0, 2.0, 5.0, 8.0, 11.0, 14.0, 17.0, 25.0, float("inf"))
SNR_EDGES_DB = (0.0, 10.0, 15.0, 20.0, 25.0, 30.0, 40.0, float("inf"))
FILLERS = frozenset({"uh", "um", "eh", "er", "hm", "hmm", "mm", "mhm", "ah", "oh"})


@dataclass(frozen=True)
class Judged:
    """What was evaluated; row i of every column is utterance i."""

    ids: Sequence[str]
    references: Sequence[str]
    hypotheses: Sequence[str]
    speakers: Sequence[str]
    durations_s: np.ndarray
    datasets: Sequence[str]
    """Where each utterance comes from."""
    snr_db: np.ndarray | None = None
    """Estimated signal-to-noise ratio, if it was looked at."""
    words: Sequence[Sequence[WordSpan]] | None = None
    """Words of the hypotheses with their uncalibrated confidences, if they are known."""
    calibration: Calibration | None = None
    """What makes these confidences probabilities."""


@dataclass(frozen=True)
class Group:
    """Utterances that have something in common."""

    name: str
    num_utterances: int
    num_words: int
    wer: Interval


@dataclass(frozen=True)
class Worst:
    """An utterance with many errors."""

    id: str
    speaker: str
    duration_s: float
    num_edits: int
    num_words: int
    edits: list[tuple[str, str, str]]
    """Kind, words of the reference, words that were written."""


@dataclass(frozen=True)
class EvaluationReport:
    """Figures of an evaluation; rates as fractions with their 95 % intervals."""

    title: str
    num_utterances: int
    hours: float
    wer: Interval
    wer_by_speaker: Interval
    """The same rate; its interval by drawing speakers instead of utterances."""
    cer: Interval
    words: dict[str, int]
    characters: dict[str, int]
    groups: dict[str, list[Group]]
    confused_words: list[tuple[str, str, int]]
    deleted_words: list[tuple[str, int]]
    inserted_words: list[tuple[str, int]]
    confused_characters: list[tuple[str, str, int]]
    normalizations: dict[str, float]
    """Word error rate if the texts are compared otherwise."""
    worst: list[Worst]
    compared_with: str = ""
    comparison: Comparison | None = None
    other_wer: Interval | None = None
    confidence: Reliability | None = None
    """How far confidences of words can be trusted: calibrated ones, if there is a calibration."""
    uncalibrated_error: float | None = None
    """Expected calibration error before the calibration."""
    utterances: list[tuple[str, int, int]] = field(default_factory=list)
    """Id, word errors and words of every utterance."""

    def json(self) -> bytes:
        """The report as a JSON file."""
        return (json.dumps(asdict(self), indent=1) + "\n").encode()


def evaluation_report(
    judged: Judged, *, title: str, other: Mapping[str, str] | None = None, other_name: str = ""
) -> EvaluationReport:
    """Figures of an evaluation.

    Args:
        judged: What was evaluated.
        title: Above the report.
        other: Another recogniser's transcripts by utterance id, for a comparison over the utterances of both.
        other_name: What that recogniser is called.

    Raises:
        ValueError: The other recogniser has none of the utterances.
    """
    words = count_edits(judged.references, judged.hypotheses)
    characters = count_edits(judged.references, judged.hypotheses, characters=True)
    speakers = np.asarray(judged.speakers)
    comparison, other_wer = _comparison(judged, words, other, other_name)
    confidence, uncalibrated = _confidence(judged)
    return EvaluationReport(
        title=title,
        num_utterances=len(judged.ids),
        hours=float(np.sum(judged.durations_s)) / 3600,
        wer=rate_interval(words.edits, words.lengths),
        wer_by_speaker=rate_interval(words.edits, words.lengths, groups=speakers),
        cer=rate_interval(characters.edits, characters.lengths),
        words=_totals(words),
        characters=_totals(characters),
        groups=_groups(judged, words),
        confused_words=_pairs(words.substituted),
        deleted_words=words.deleted.most_common(MAX_CONFUSIONS),
        inserted_words=words.inserted.most_common(MAX_CONFUSIONS),
        confused_characters=_character_pairs(characters),
        normalizations=_normalizations(judged),
        worst=_worst(judged, words),
        compared_with=other_name if comparison else "",
        comparison=comparison,
        other_wer=other_wer,
        confidence=confidence,
        uncalibrated_error=uncalibrated,
        utterances=[
            (name, int(edits), int(length))
            for name, edits, length in zip(judged.ids, words.edits, words.lengths, strict=True)
        ],
    )


def _totals(table: EditTable) -> dict[str, int]:
    return {
        "references": int(table.lengths.sum()),
        "substitutions": int(table.substitutions.sum()),
        "deletions": int(table.deletions.sum()),
        "insertions": int(table.insertions.sum()),
    }


def _pairs(counts: Counter[tuple[str, str]]) -> list[tuple[str, str, int]]:
    return [(wanted, found, count) for (wanted, found), count in counts.most_common(MAX_CONFUSIONS)]


def _character_pairs(table: EditTable) -> list[tuple[str, str, int]]:
    """Substitutions, and what was left out or added, with an empty string on the other side."""
    counts: Counter[tuple[str, str]] = Counter(table.substituted)
    counts.update({(character, ""): count for character, count in table.deleted.items()})
    counts.update({("", character): count for character, count in table.inserted.items()})
    return _pairs(counts)


def _groups(judged: Judged, words: EditTable) -> dict[str, list[Group]]:
    names = {
        "speaker": np.asarray([name or "unknown" for name in judged.speakers], dtype=object),
        "dataset": np.asarray(judged.datasets, dtype=object),
        "duration": _bins(judged.durations_s, DURATION_EDGES_S, "s"),
    }
    if judged.snr_db is not None:
        names["signal-to-noise ratio"] = _bins(judged.snr_db, SNR_EDGES_DB, "dB")
    return {kind: _group(column, words, by_rate=kind == "speaker") for kind, column in names.items()}


def _bins(values: np.ndarray, edges: Sequence[float], unit: str) -> np.ndarray:
    labels = [
        f"{low:g} to {high:g} {unit}" if np.isfinite(high) else f"{low:g} {unit} and more"
        for low, high in itertools.pairwise(edges)
    ]
    named: np.ndarray = np.asarray(labels, dtype=object)[np.clip(np.digitize(values, edges) - 1, 0, len(labels) - 1)]
    return named


def _group(names: np.ndarray, words: EditTable, *, by_rate: bool) -> list[Group]:
    """Groups in order of first appearance by name, or the worst first; at most `MAX_GROUPS`, the worst ones."""
    unique, inverse = np.unique(names, return_inverse=True)
    groups = []
    for number, name in enumerate(unique):
        members = inverse == number
        interval = rate_interval(words.edits[members], words.lengths[members])
        groups.append(Group(str(name), int(members.sum()), int(words.lengths[members].sum()), interval))
    if by_rate:
        return sorted(groups, key=lambda group: -group.wer.rate)[:MAX_GROUPS]
    return sorted(groups, key=lambda group: _leading_number(group.name))[:MAX_GROUPS]


def _leading_number(name: str) -> tuple[float, str]:
    head = name.split(" ", 1)[0]
    try:
        return float(head), name
    except ValueError:
        return 0.0, name


def _normalizations(judged: Judged) -> dict[str, float]:
    variants: dict[str, Callable[[str], str]] = {
        "as they are": lambda text: text,
        "without apostrophes": lambda text: text.replace("'", ""),
        "without fillers (uh, um, …)": lambda text: " ".join(word for word in text.split() if word not in FILLERS),
    }
    rates = {}
    for name, change in variants.items():
        references, hypotheses = ([change(text) for text in texts] for texts in (judged.references, judged.hypotheses))
        rates[name] = count_errors(references, hypotheses).wer
    # Compound words: the same letters in the same order, wherever the spaces are.
    joined = [
        reference if reference.replace(" ", "") == hypothesis.replace(" ", "") else hypothesis
        for reference, hypothesis in zip(judged.references, judged.hypotheses, strict=True)
    ]
    rates["utterances that differ in spaces only forgiven"] = count_errors(judged.references, joined).wer
    return rates


def _worst(judged: Judged, words: EditTable) -> list[Worst]:
    worst = []
    for row in np.argsort(-words.edits, kind="stable")[:MAX_WORST]:
        if words.edits[row] == 0:
            break
        edits: list[tuple[str, str, str]] = [
            (edit.kind, " ".join(edit.reference), " ".join(edit.hypothesis))
            for edit in word_edits(judged.references[row], judged.hypotheses[row])
        ]
        worst.append(
            Worst(
                judged.ids[row],
                judged.speakers[row],
                float(judged.durations_s[row]),
                int(words.edits[row]),
                int(words.lengths[row]),
                edits,
            )
        )
    return worst


def _comparison(
    judged: Judged, words: EditTable, other: Mapping[str, str] | None, name: str
) -> tuple[Comparison | None, Interval | None]:
    if other is None:
        return None, None
    rows = [row for row, utterance in enumerate(judged.ids) if utterance in other]
    if not rows:
        raise ValueError(f"{name} has a transcript of none of the {len(judged.ids)} utterances: is it of other data?")
    theirs = count_edits([judged.references[row] for row in rows], [other[judged.ids[row]] for row in rows])
    comparison = compare_rates(theirs.edits, words.edits[rows], words.lengths[rows])
    return comparison, rate_interval(theirs.edits, theirs.lengths)


def _confidence(judged: Judged) -> tuple[Reliability | None, float | None]:
    """Reliability of the confidences, and the calibration error without calibration if there is one."""
    if judged.words is None:
        return None, None
    spans: list[WordSpan] = []
    right: list[bool] = []
    for reference, hypothesis, words in zip(judged.references, judged.hypotheses, judged.words, strict=True):
        correct = correct_words(reference, hypothesis)
        if len(correct) == len(words):  # a text that does not fit its frames has no words
            spans += words
            right += correct
    plain = reliability([word.confidence for word in spans], right)
    if judged.calibration is None:
        return plain, None
    return reliability([word.confidence for word in judged.calibration.apply(spans)], right), plain.error


def summary(report: EvaluationReport) -> dict[str, Any]:
    """The figures of a report that fit on a line."""
    figures: dict[str, Any] = {
        "wer": report.wer.rate,
        "wer_low": report.wer.low,
        "wer_high": report.wer.high,
        "cer": report.cer.rate,
        **report.words,
    }
    if report.confidence is not None:
        figures["calibration_error"] = report.confidence.error
    if report.comparison is not None:
        figures |= {"difference": report.comparison.difference.rate, "p_value": report.comparison.p_value}
    return figures
