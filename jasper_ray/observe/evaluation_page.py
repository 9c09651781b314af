"""An evaluation's report as one HTML page without anything from elsewhere."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from jasper_ray.decoding.alignment import WordSpan
from jasper_ray.observe.evaluation_report import EvaluationReport, Group, Worst
from jasper_ray.text.confidence import Interval

WAVE_WIDTH, WAVE_HEIGHT, WORDS_HEIGHT = 720, 60, 18
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
    words = "".join(
        f"<text x='{WAVE_WIDTH * word.start_s / max(duration_s, 1e-9):.1f}' y='{WAVE_HEIGHT + 13}'>{escape(word.word)}"
        f"<title>{word.start_s:.2f} to {word.end_s:.2f} s, confidence {word.confidence:.2f}</title></text>"
        for word in clip.words
    )
    return f"<svg class='wave' viewBox='0 0 {WAVE_WIDTH} {WAVE_HEIGHT + WORDS_HEIGHT}'>{bars}{words}</svg>"


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
