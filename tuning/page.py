"""The frame of every page that a sweep writes."""

from collections.abc import Sequence
from html import escape

from jasper_ray.observe.evaluation_page import STYLE

CHART_STYLE = """
body { max-width: 68rem; } svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: var(--soft); } svg text.name { fill: var(--ink); font-weight: 600; }
svg .halo { fill: var(--ink); paint-order: stroke; stroke: var(--paper); stroke-width: 4px; }
svg .grid { stroke: var(--line); } svg .axis { stroke: var(--soft); }
svg .framed { stroke: var(--ink); stroke-width: 3px; } polyline { stroke-linejoin: round; }
td, th { padding-right: 1rem; } tr.best td { font-weight: 600; }
code, pre { font-size: .92em; overflow-wrap: anywhere; }
/* Shadows at the sides beyond which there is more. */
.wide { overflow-x: auto; background: linear-gradient(to right, var(--paper) 40%, transparent) 0 0 / 3rem 100% local,
  linear-gradient(to left, var(--paper) 40%, transparent) 100% 0 / 3rem 100% local,
  linear-gradient(to right, #0004, transparent) 0 0 / .9rem 100% scroll,
  linear-gradient(to left, #0004, transparent) 100% 0 / .9rem 100% scroll; background-repeat: no-repeat; }
.wide svg { min-width: 36rem; }
@media (prefers-color-scheme: dark) { svg polyline, svg circle { filter: brightness(1.7); } }
.wide td, .wide th { white-space: nowrap; overflow-wrap: normal; }
.wide td:last-child { white-space: normal; min-width: 16rem; }
"""


def page(title: str, body: Sequence[str]) -> str:
    """An HTML page with the style of all reports."""
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>{escape(title)}</title><style>{STYLE}{CHART_STYLE}</style></head><body>"
        + "\n".join(body)
        + "</body></html>\n"
    )
