"""A corpus report as one HTML page without anything from elsewhere."""

from collections.abc import Iterable, Sequence
from html import escape

from jasper_ray.data.corpus_report import REPORT_FILE, CorpusReport

MAX_SPEAKERS, MAX_REJECTED_PER_KIND = 20, 100
CHART_WIDTH, CHART_HEIGHT, CHART_FOOT = 720, 180, 22
STYLE = """
:root { color-scheme: light dark; --ink: #1d2733; --paper: #fff; --soft: #5b6b7b; --line: #d9e0e7; --bar: #2f7fd1; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9ee; --paper: #14191f; --soft: #93a1b0; --line: #2b343e; --bar: #5ba3ea; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; } .figures b { display: block; font-size: 1.5rem; }
.soft { color: var(--soft); } table { border-collapse: collapse; } th { text-align: left; font-weight: 600; }
td, th { padding: .15rem 1.2rem .15rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; } td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
svg { width: 100%; height: auto; } rect { fill: var(--bar); } text { fill: var(--soft); font-size: 11px; }
details { margin: .4rem 0; } summary { cursor: pointer; } code { font-size: .92em; }
"""


def report_page(report: CorpusReport) -> str:
    """The whole page."""
    sources = ", ".join(source["source"] for source in report.sources)
    body = [
        f"<h1>Corpus report</h1><p class='soft'>{escape(sources)}</p>",
        _figures(report),
        "<h2>Left out</h2>",
        _rejections(report),
        "<h2>Durations</h2>",
        _histogram(report),
        _table(
            ("quantile", "seconds"), [(name, f"{value:.2f}") for name, value in report.duration_quantiles_s.items()]
        ),
        "<h2>Speakers</h2>",
        _speakers(report),
        "<h2>Characters</h2>",
        _characters(report),
        "<h2>Files</h2>",
        _table(("format", "utterances"), report.containers.items()),
        _table(("sample rate in Hz", "utterances"), report.sample_rates_hz.items()),
        _table(("channels", "utterances"), report.channels.items()),
        "<h2>Options</h2>",
        _table(("option", "value"), [("alphabet", repr(report.alphabet)), *report.options.items()], numbers=False),
    ]
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' "
        f"content='width=device-width'><title>Corpus report</title><style>{STYLE}</style></head><body>"
        + "\n".join(body)
        + "</body></html>\n"
    )


def _figures(report: CorpusReport) -> str:
    figures = (
        ("hours", f"{report.hours:,.2f}"),
        ("utterances", f"{report.num_utterances:,}"),
        ("speakers", f"{len(report.speaker_hours):,}"),
        ("words", f"{report.num_words:,}"),
        ("shards", f"{report.num_shards:,}"),
        ("left out", f"{len(report.rejected):,}"),
    )
    return "<div class='figures'>" + "".join(f"<div><b>{value}</b>{name}</div>" for name, value in figures) + "</div>"


def _rejections(report: CorpusReport) -> str:
    if not report.rejected:
        return "<p>Nothing: every utterance of the corpus is in the dataset.</p>"
    parts = []
    for kind, count in report.rejected_by_kind:
        shown = [item for item in report.rejected if item.kind == kind][:MAX_REJECTED_PER_KIND]
        rows = _table(("utterance", "reason"), [(item.id, item.reason) for item in shown], numbers=False)
        more = f"<p class='soft'>{count - len(shown):,} more in {REPORT_FILE}</p>" if count > len(shown) else ""
        parts.append(f"<details><summary>{escape(kind)}: {count:,}</summary>{rows}{more}</details>")
    return "".join(parts)


def _histogram(report: CorpusReport) -> str:
    counts, edges_s = report.bin_counts, report.bin_edges_s
    highest, width = max(counts), CHART_WIDTH / len(counts)
    bars = [
        f"<rect x='{position * width + 1:.1f}' y='{CHART_HEIGHT * (1 - count / highest):.1f}' width='{width - 2:.1f}' "
        f"height='{CHART_HEIGHT * count / highest:.1f}'><title>{edges_s[position]:g} to {edges_s[position + 1]:g} s: "
        f"{count:,}</title></rect>"
        for position, count in enumerate(counts)
    ]
    step = max(1, len(counts) // 8)
    labels = [
        f"<text x='{position * width:.1f}' y='{CHART_HEIGHT + 15}'>{edges_s[position]:g} s</text>"
        for position in range(0, len(counts), step)
    ]
    return (
        f"<svg viewBox='0 0 {CHART_WIDTH} {CHART_HEIGHT + CHART_FOOT}' role='img' aria-label='utterances by duration'>"
        + "".join(bars + labels)
        + "</svg>"
    )


def _speakers(report: CorpusReport) -> str:
    hours = list(report.speaker_hours.items())
    if len(hours) == 1 and not hours[0][0]:
        return "<p>The corpus does not say who speaks.</p>"
    rows = [(name or "unknown", f"{value:.3f}") for name, value in hours]
    if len(rows) <= MAX_SPEAKERS:
        return _table(("speaker", "hours"), rows)
    half = MAX_SPEAKERS // 2
    skipped = (f"… {len(rows) - 2 * half:,} more …", "")
    return _table(("speaker", "hours"), [*rows[:half], skipped, *rows[-half:]])


def _characters(report: CorpusReport) -> str:
    total = max(1, report.num_characters)
    rows = [
        ("space" if label == " " else label, f"{count:,}", f"{count / total:.2%}")
        for label, count in sorted(report.characters.items(), key=lambda pair: -pair[1])
    ]
    return _table(("character", "times", "share"), rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]], *, numbers: bool = True) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td{' class=n' if numbers and column else ''}>{escape(str(value))}</td>"
            for column, value in enumerate(row)
        )
        + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"
