"""An evaluation's report as one HTML page without anything from elsewhere."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from jasper_ray.decoding.alignment import WordSpan
from jasper_ray.observe.evaluation_report import EvaluationReport, Group, Worst
from jasper_ray.text.confidence import Interval

WAVE_WIDTH, WAVE_HEIGHT = 720, 60
LETTER_WIDTH, LINE_HEIGHT = 6.2, 12
"""Of words under a waveform."""
MAX_ROWS = 20
STYLE = """
:root { color-scheme: light dark; --ink: #1d2733; --paper: #fff; --soft: #5b6b7b; --line: #d9e0e7; --bar: #2f7fd1;
  --wrong: #b3261e; --right: #1b7f4b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e9ee; --paper: #14191f; --soft: #93a1b0; --line: #2b343e;
  --bar: #5ba3ea; --wrong: #ff8a80; --right: #6fd6a0; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; } .figures b { display: block; font-size: 1.5rem; }
.soft { color: var(--soft); } table { border-collapse: collapse; } th { text-align: left; font-weight: 600; }
td, th { padding: .15rem 1.2rem .15rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; } td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.columns { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 1rem 3rem; }
.bar { fill: var(--bar); } .range { stroke: var(--ink); }
article { border-top: 1px solid var(--line); padding: .8rem 0; } del { color: var(--wrong); }
ins { color: var(--right); text-decoration: none; border-bottom: 2px solid; } audio { width: 100%; height: 2.2rem; }
svg.reliability { width: 22rem; height: auto; } svg.reliability text { fill: var(--soft); font-size: 11px; }
svg.reliability line { stroke: var(--ink); stroke-dasharray: 4 3; } svg.reliability circle { fill: var(--ink); }
svg.wave { width: 100%; height: auto; } svg.wave text { fill: var(--soft); font-size: 10px; }
summary { cursor: pointer; }
"""


@dataclass(frozen=True)
class Clip:
    """What there is to hear and see of an utterance."""

    envelope: Sequence[float]
    """Peaks from left to right, 0 to 1."""
    words: Sequence[WordSpan]
    """What was written, and when it was said."""
    audio: bytes = b""
    """The recording as a file that browsers play; empty if it is to stay out of the page."""
    media_type: str = "audio/flac"


def evaluation_page(report: EvaluationReport, clips: Mapping[str, Clip]) -> str:
    """The whole page; `clips` of the worst utterances by id."""
    body = [
        f"<h1>{escape(report.title)}</h1>",
        _figures(report),
        _comparison(report),
        *(_groups(kind, groups) for kind, groups in report.groups.items() if len(groups) > 1),
        "<h2>What became of what</h2><div class='columns'>",
        _table(("said", "written", "times"), report.confused_words[:MAX_ROWS]),
        _table(("left out", "times"), report.deleted_words[:MAX_ROWS]),
        _table(("added", "times"), report.inserted_words[:MAX_ROWS]),
        _table(("character", "written", "times"), _visible(report.confused_characters[:MAX_ROWS])),
        "</div><h2>Compared otherwise</h2>",
        _table(("texts", "WER"), [(name, f"{rate:.2%}") for name, rate in report.normalizations.items()]),
        _confidence(report),
        "<h2>Most errors</h2><p class='soft'>What was said and not written is <del>struck out</del>, what was "
        "written instead is <ins>underlined</ins>.</p>",
        *(_worst(worst, clips.get(worst.id)) for worst in report.worst),
    ]
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' "
        f"content='width=device-width'><title>{escape(report.title)}</title><style>{STYLE}</style></head><body>"
        + "\n".join(body)
        + "</body></html>\n"
    )


def _figures(report: EvaluationReport) -> str:
    words = report.words
    figures = (
        ("word error rate", f"{report.wer.rate:.2%}"),
        ("95 % interval", _interval(report.wer)),
        ("with other speakers", _interval(report.wer_by_speaker)),
        ("character error rate", f"{report.cer.rate:.2%}"),
        ("words", f"{words['references']:,}"),
        ("substituted", f"{words['substitutions']:,}"),
        ("left out", f"{words['deletions']:,}"),
        ("added", f"{words['insertions']:,}"),
        ("utterances", f"{report.num_utterances:,}"),
        ("hours", f"{report.hours:,.2f}"),
    )
    return "<div class='figures'>" + "".join(f"<div><b>{value}</b>{name}</div>" for name, value in figures) + "</div>"


def _comparison(report: EvaluationReport) -> str:
    if report.comparison is None or report.other_wer is None:
        return ""
    difference, p_value = report.comparison.difference, report.comparison.p_value
    verdict = "could be chance" if p_value >= 0.05 else ("better" if difference.rate < 0 else "worse")
    return (
        f"<h2>Compared with {escape(report.compared_with)}</h2><p>There {report.other_wer.rate:.2%}, here "
        f"{report.wer.rate:.2%}: {100 * difference.rate:+.2f} points (95 % interval {100 * difference.low:+.2f} to "
        f"{100 * difference.high:+.2f}), p = {p_value:.4f}: <b>{verdict}</b>.</p>"
    )


def _groups(kind: str, groups: Sequence[Group]) -> str:
    highest = max((group.wer.high for group in groups), default=0) or 1.0
    rows = []
    for group in groups[:MAX_ROWS]:
        bar, low, high = (200 * rate / highest for rate in (group.wer.rate, group.wer.low, group.wer.high))
        picture = (
            f"<svg width='210' height='12'><rect class='bar' y='2' height='8' width='{bar:.1f}'/>"
            f"<line class='range' x1='{low:.1f}' x2='{high:.1f}' y1='6' y2='6'/></svg>"
        )
        cells = (f"{group.num_utterances:,}", f"{group.num_words:,}", f"{group.wer.rate:.2%}", _interval(group.wer))
        rows.append(
            f"<tr><td>{escape(group.name)}</td>"
            + "".join(f"<td class=n>{cell}</td>" for cell in cells)
            + f"<td>{picture}</td></tr>"
        )
    heads = "".join(f"<th>{name}</th>" for name in (kind, "utterances", "words", "WER", "95 % interval", ""))
    more = f"<p class='soft'>{len(groups) - MAX_ROWS:,} more in report.json</p>" if len(groups) > MAX_ROWS else ""
    return f"<h2>By {escape(kind)}</h2><table><tr>{heads}</tr>{''.join(rows)}</table>{more}"


def _confidence(report: EvaluationReport) -> str:
    """Reliability diagram: what confidences promise beside what they keep."""
    found = report.confidence
    if found is None or not found.num_words:
        return ""
    size, left = 260, 30
    columns = []
    for one in found.bins:
        x, width = left + size * one.low, size * (one.high - one.low) - 2
        told = (
            f"confidence {one.low:.1f} to {one.high:.1f}: {one.num_words:,} words, on average {one.confidence:.3f}; "
            f"right: {one.accuracy:.3f}"
        )
        columns.append(
            f"<g><title>{told}</title><rect class='bar' x='{x:.1f}' y='{size * (1 - one.accuracy):.1f}' "
            f"width='{width:.1f}' height='{size * one.accuracy:.1f}'/><circle cx='{left + size * one.confidence:.1f}' "
            f"cy='{size * (1 - one.accuracy):.1f}' r='3.5'/></g>"
        )
    ticks = "".join(
        f"<text x='{left + size * tick / 4:.0f}' y='{size + 14}' text-anchor='middle'>{tick / 4:g}</text>"
        f"<text x='{left - 5}' y='{size * (1 - tick / 4) + 4:.0f}' text-anchor='end'>{tick / 4:g}</text>"
        for tick in range(5)
    )
    picture = (
        f"<svg class='reliability' viewBox='-5 -10 {size + left + 25} {size + 50}'>{''.join(columns)}"
        f"<line x1='{left}' y1='{size}' x2='{left + size}' y2='0'/>{ticks}"
        f"<text x='{left + size / 2:.0f}' y='{size + 32}' text-anchor='middle'>confidence</text></svg>"
    )
    before = "" if report.uncalibrated_error is None else f" ({report.uncalibrated_error:.3f} before the calibration)"
    rows = [
        (f"{one.low:.1f} to {one.high:.1f}", f"{one.confidence:.3f}", f"{one.accuracy:.3f}", f"{one.num_words:,}")
        for one in found.bins
    ]
    return (
        f"<h2>Confidence of words</h2><p>Expected calibration error <b>{found.error:.3f}</b>{before}, "
        f"{found.num_words:,} words of which {found.accuracy:.1%} are right. Columns: share that is right, on the line "
        f"if confidences are probabilities.</p><div class='columns'>{picture}"
        f"{_table(('confidence', 'mean', 'right', 'words'), rows)}</div>"
    )


def _worst(worst: Worst, clip: Clip | None) -> str:
    words = " ".join(_edit(*edit) for edit in worst.edits)
    where = f"{worst.speaker}, " if worst.speaker else ""
    parts = [
        f"<article><div class='soft'>{escape(worst.id)} ({escape(where)}{worst.duration_s:.1f} s): {worst.num_edits} "
        f"errors in {worst.num_words} words</div><div>{words}</div>"
    ]
    if clip is not None:
        parts.append(_wave(clip, worst.duration_s))
        if clip.audio:
            encoded = base64.b64encode(clip.audio).decode()
            parts.append(
                f"<audio controls preload='none' src='data:{escape(clip.media_type)};base64,{encoded}'></audio>"
            )
    return "".join(parts) + "</article>"


def _edit(kind: str, wanted: str, found: str) -> str:
    if kind == "equal":
        return escape(wanted)
    struck = f"<del>{escape(wanted)}</del>" if wanted else ""
    added = f"<ins>{escape(found)}</ins>" if found else ""
    return " ".join(part for part in (struck, added) if part)


def _wave(clip: Clip, duration_s: float) -> str:
    step = WAVE_WIDTH / max(1, len(clip.envelope))
    middle = WAVE_HEIGHT / 2
    bars = "".join(
        f"<rect class='bar' x='{number * step:.1f}' width='{step:.2f}' y='{middle * (1 - peak):.1f}' "
        f"height='{max(1.0, WAVE_HEIGHT * peak):.1f}'/>"
        for number, peak in enumerate(clip.envelope)
    )
    words, num_lines = _written(clip.words, duration_s)
    height = WAVE_HEIGHT + 6 + LINE_HEIGHT * num_lines
    return f"<svg class='wave' viewBox='0 0 {WAVE_WIDTH} {height}'>{bars}{words}</svg>"


def _written(words: Sequence[WordSpan], duration_s: float) -> tuple[str, int]:
    """Words under a waveform where they were said, on as many lines as keep them apart."""
    ends: list[float] = []
    texts = []
    for word in words:
        x = WAVE_WIDTH * word.start_s / max(duration_s, 1e-9)
        line = next((number for number, end in enumerate(ends) if end <= x), len(ends))
        ends[line : line + 1] = [x + LETTER_WIDTH * (len(word.word) + 1)]
        texts.append(
            f"<text x='{x:.1f}' y='{WAVE_HEIGHT + LINE_HEIGHT * (line + 1)}'>{escape(word.word)}"
            f"<title>{word.start_s:.2f} to {word.end_s:.2f} s, confidence {word.confidence:.2f}</title></text>"
        )
    return "".join(texts), len(ends)


def _visible(rows: Iterable[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
    names = {" ": "space", "": "nothing"}
    return [(names.get(wanted, wanted), names.get(found, found), count) for wanted, found, count in rows]


def _interval(interval: Interval) -> str:
    return f"{interval.low:.2%} to {interval.high:.2%}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(
        "<tr>" + "".join(f"<td{' class=n' if column == len(heads) - 1 else ''}>{escape(str(value))}</td>"
        for column, value in enumerate(row)) + "</tr>"
        for row in rows
    )  # fmt: skip
    return f"<table><tr>{head}</tr>{body}</table>" if body else f"<p class='soft'>{escape(heads[0])}: nothing</p>"
