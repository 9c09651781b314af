"""Charts as SVG, drawn by hand so that a page needs nothing from elsewhere."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

WIDTH, HEIGHT = 860, 330
LEFT, RIGHT, TOP, BOTTOM = 56, 70, 14, 40
GRADIENT = ((68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37))
"""Viridis at five points: from bad to good it stays readable without colours."""
LINE = 12
DISTINCT = 8
"""More values than this are put into bins."""


@dataclass(frozen=True)
class Curve:
    """One trial over its epochs."""

    name: str
    points: Sequence[tuple[float, float]]
    goodness: float
    """From 0 for the worst to 1 for the best."""
    note: str
    """Shown under the pointer."""


@dataclass(frozen=True)
class Axis:
    """A quantity along a side: numbers, on a logarithmic scale or not, or names."""

    label: str
    values: Sequence[Any]
    log: bool = False

    @property
    def is_numeric(self) -> bool:
        """Whether all values are numbers."""
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.values)

    def ticks(self) -> list[Any]:
        """What is written beside the axis."""
        distinct = sorted(set(self.values), key=_order)
        if not self.is_numeric or len(distinct) <= 5:
            return list(distinct)
        return self.round_ticks()

    def round_ticks(self) -> list[float]:
        """Up to seven round numbers among the values: steps of 1, 2 or 5 times a power of ten."""
        low, high = float(min(self.values)), float(max(self.values))
        if high <= low:
            return [low]
        if self.log:
            decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
            for factors in ((1.0, 2.0, 5.0), (1.0,)):
                found = [factor * 10.0**decade for decade in decades for factor in factors]
                inside = [value for value in found if low <= value * (1 + 1e-9) and value <= high * (1 + 1e-9)]
                if 3 <= len(inside) <= 7:
                    return inside
        is_whole = all(float(value).is_integer() for value in self.values)
        exponent = math.floor(math.log10((high - low) / 5))
        steps = [factor * 10.0**power for power in (exponent, exponent + 1) for factor in (1, 2, 5)]
        step = next(step for step in steps if (high - low) / step <= 6 and (step >= 1 or not is_whole))
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        return [count * step for count in range(first, last + 1)]

    def place(self, value: Any) -> float:
        """From 0 at the lowest value to 1 at the highest."""
        if not self.is_numeric:
            distinct = sorted(set(self.values), key=_order)
            return distinct.index(value) / max(1, len(distinct) - 1) if len(distinct) > 1 else 0.5
        scale = math.log if self.log else float
        low, high = (scale(float(bound(self.values))) for bound in (min, max))
        return (scale(float(value)) - low) / (high - low) if high > low else 0.5


def learning_curves(curves: Sequence[Curve], *, y_label: str, log: bool = False, x_label: str = "epochs") -> str:
    """Lines over epochs, the best on top and labelled.

    Args:
        curves: One per trial.
        y_label: What they show.
        log: A logarithmic scale, for values above 0.
        x_label: What they are over.
    """
    points = [point for curve in curves for point in curve.points]
    if not points:
        return "<p class='soft'>no trial was evaluated</p>"
    x_axis = Axis(x_label, [0.0, *(x for x, _ in points)])
    values = [y for _, y in points if y > 0 or not log]
    y_axis = Axis(y_label, values if log else [0.0, *values], log=log)
    parts = [_frame(x_axis, y_axis)]
    for curve in sorted(curves, key=lambda curve: curve.goodness):
        placed = [_at(x_axis.place(x), y_axis.place(y)) for x, y in curve.points if y > 0 or not log]
        if not placed:
            continue
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        style = f"stroke='{colour(curve.goodness)}' stroke-width='{3 if curve.goodness == 1 else 1.6}'"
        dots = "".join(
            f"<circle cx='{x:.1f}' cy='{y:.1f}' r='2.4' fill='{colour(curve.goodness)}'/>" for x, y in placed
        )
        parts.append(f"<g><title>{escape(curve.note)}</title><polyline fill='none' {style} points='{line}'/>{dots}</g>")
    parts += _end_labels(curves, x_axis, y_axis, log=log)
    return _svg(WIDTH, HEIGHT, "".join(parts))


def marked_curve(x_axis: Axis, y_axis: Axis, marks: Sequence[tuple[float, str]]) -> str:
    """One line, with upright marks on its way.

    Args:
        x_axis: One value per point.
        y_axis: One value per point.
        marks: Where on the x axis, and what is written there.
    """
    parts = [_frame(x_axis, y_axis)]
    placed = [_at(x_axis.place(x), y_axis.place(y)) for x, y in zip(x_axis.values, y_axis.values, strict=True)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    parts.append(f"<polyline fill='none' stroke='{colour(0.5)}' stroke-width='2' points='{line}'/>")
    for number, (value, text) in enumerate(marks):
        x, _ = _at(x_axis.place(value), 0)
        y = TOP + 12 + 14 * number
        parts.append(f"<line class='axis' x1='{x:.1f}' x2='{x:.1f}' y1='{TOP}' y2='{HEIGHT - BOTTOM}'/>")
        parts.append(f"<text class='halo' x='{x + 4:.1f}' y='{y}'>{escape(text)}</text>")
    return _svg(WIDTH, HEIGHT, "".join(parts))


def parallel_coordinates(axes: Sequence[Axis], goodness: Sequence[float], notes: Sequence[str]) -> str:
    """A line per trial over one upright axis per setting; the last axis is the word error rate.

    Args:
        axes: Each with one value per trial; None where a setting did not apply.
        goodness: Of each trial, from 0 to 1.
        notes: Shown under the pointer.
    """
    inner = WIDTH - 2 * LEFT - 20
    lefts = [LEFT + 10 + inner * number / max(1, len(axes) - 1) for number in range(len(axes))]
    top, bottom = TOP + 24, HEIGHT - BOTTOM
    present = [Axis(axis.label, [value for value in axis.values if value is not None], axis.log) for axis in axes]
    parts = []
    for trial in sorted(range(len(goodness)), key=lambda trial: goodness[trial]):
        pairs = zip(lefts, axes, present, strict=True)
        placed = [
            (x, bottom - (bottom - top) * known.place(axis.values[trial]))
            for x, axis, known in pairs
            if axis.values[trial] is not None
        ]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        width = 3 if goodness[trial] == 1 else 1.6
        parts.append(
            f"<polyline fill='none' stroke='{colour(goodness[trial])}' stroke-width='{width}' points='{line}'>"
            f"<title>{escape(notes[trial])}</title></polyline>"
        )
    for x, axis in zip(lefts, present, strict=True):
        parts.append(f"<line class='axis' x1='{x:.1f}' x2='{x:.1f}' y1='{top}' y2='{bottom}'/>")
        parts.append(f"<text class='name' x='{x:.1f}' y='{TOP + 6}' text-anchor='middle'>{escape(axis.label)}</text>")
        for tick in axis.ticks():
            y = bottom - (bottom - top) * axis.place(tick)
            parts.append(f"<text class='halo' x='{x + 6:.1f}' y='{y + 4:.1f}'>{escape(number_text(tick))}</text>")
    return _svg(WIDTH, HEIGHT, "".join(parts))


def heat_map(columns: Axis, rows: Axis, values: Sequence[float]) -> str:
    """The lowest value of each cell over two settings; many different numbers are put into bins.

    Args:
        columns: One value per trial.
        rows: One value per trial.
        values: Of each trial; lower is better.
    """
    column_bins, row_bins = _bins(columns), _bins(rows)
    cells: dict[tuple[int, int], list[float]] = {}
    for x, y, value in zip(columns.values, rows.values, values, strict=True):
        cells.setdefault((_bin_of(y, row_bins), _bin_of(x, column_bins)), []).append(value)
    lowest, highest = min(values), max(min(found) for found in cells.values())
    width, height = min(110, (WIDTH - 2 * LEFT) / len(column_bins)), 46
    left, parts = LEFT + 80, []
    for (row, column), found in cells.items():
        best = min(found)
        good = (highest - best) / (highest - lowest) if highest > lowest else 1.0
        x, y = left + column * width, TOP + (len(row_bins) - 1 - row) * height
        middle, ink = x + width / 2 - 1, "#111" if good > 0.6 else "#fff"
        frame = " class='framed'" if best == lowest else ""
        size = f"x='{x:.1f}' y='{y:.1f}' width='{width - 2:.1f}' height='{height - 2}'"
        parts.append(f"<rect {size} fill='{colour(good)}'{frame}/>")
        for offset, weight, text in ((20, 600, f"{best:.2%}"), (35, 400, f"{len(found)} trial{'s'[: len(found) - 1]}")):
            style = f"style='fill:{ink};font-weight:{weight}'"
            parts.append(f"<text x='{middle:.1f}' y='{y + offset:.1f}' text-anchor='middle' {style}>{text}</text>")
    bottom = TOP + len(row_bins) * height
    for number, (text, _) in enumerate(row_bins):
        y = TOP + (len(row_bins) - 1 - number) * height + height / 2 + 4
        parts.append(f"<text x='{left - 8}' y='{y:.1f}' text-anchor='end'>{escape(text)}</text>")
    for number, (text, _) in enumerate(column_bins):
        x = left + number * width + width / 2
        parts.append(f"<text x='{x:.1f}' y='{bottom + 16}' text-anchor='middle'>{escape(text)}</text>")
    middle = left + len(column_bins) * width / 2
    parts.append(
        f"<text class='name' x='{middle:.1f}' y='{bottom + 36}' text-anchor='middle'>{escape(columns.label)}</text>"
    )
    parts.append(f"<text class='name' x='{LEFT - 40}' y='{TOP + 10}'>{escape(rows.label)}</text>")
    return _svg(WIDTH, bottom + 46, "".join(parts))


def bars(shares: Sequence[tuple[str, float]]) -> str:
    """Names with a bar each, from 0 to 1."""
    parts = []
    for number, (name, share) in enumerate(shares):
        y = 8 + number * 26
        parts.append(
            f"<text x='250' y='{y + 13}' text-anchor='end'>{escape(name)}</text>"
            f"<rect class='bar' x='260' y='{y}' width='{max(1, 400 * share):.1f}' height='17'/>"
            f"<text x='{266 + 400 * share:.1f}' y='{y + 13}'>{share:.0%}</text>"
        )
    return _svg(WIDTH, 16 + 26 * len(shares), "".join(parts))


def colour(goodness: float) -> str:
    """From dark for 0 to yellow for 1."""
    place = min(max(goodness, 0.0), 1.0) * 0.9 * (len(GRADIENT) - 1)  # the brightest is hard to see on white
    low = min(int(place), len(GRADIENT) - 2)
    mixed = (a + (b - a) * (place - low) for a, b in zip(GRADIENT[low], GRADIENT[low + 1], strict=True))
    return "#" + "".join(f"{round(part):02x}" for part in mixed)


def number_text(value: Any) -> str:
    """Three digits are enough beside an axis."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _frame(x_axis: Axis, y_axis: Axis) -> str:
    parts = []
    for tick in y_axis.round_ticks():
        _, y = _at(0, y_axis.place(tick))
        parts.append(f"<line class='grid' x1='{LEFT}' x2='{WIDTH - RIGHT}' y1='{y:.1f}' y2='{y:.1f}'/>")
        parts.append(f"<text x='{LEFT - 6}' y='{y + 4:.1f}' text-anchor='end'>{escape(number_text(tick))}</text>")
    for tick in x_axis.round_ticks():
        x, y = _at(x_axis.place(tick), 0)
        parts.append(f"<text x='{x:.1f}' y='{y + 16:.1f}' text-anchor='middle'>{escape(number_text(tick))}</text>")
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f"<text class='name' x='{middle}' y='{HEIGHT - 6}' text-anchor='middle'>{escape(x_axis.label)}</text>")
    return "".join(parts)


def _end_labels(curves: Sequence[Curve], x_axis: Axis, y_axis: Axis, *, log: bool) -> list[str]:
    """Names of the best twelve beside their last points, moved apart where they would cover each other."""
    best = sorted(curves, key=lambda curve: -curve.goodness)[:12]
    ends = [(curve, [point for point in curve.points if point[1] > 0 or not log]) for curve in best]
    labels = [
        (*_at(x_axis.place(points[-1][0]), y_axis.place(points[-1][1])), curve) for curve, points in ends if points
    ]
    parts = []
    for x in sorted({x for x, _, _ in labels}):
        column = sorted(((y, curve.name) for other, y, curve in labels if other == x))
        for y, name in _apart(column):
            parts.append(f"<text class='halo' x='{x + 6:.1f}' y='{y + 4:.1f}'>{escape(name)}</text>")
    return parts


def _apart(column: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Labels below each other, from top to bottom, none nearer to the next than a line and none below the chart."""
    ys: list[float] = []
    for y, _ in column:
        ys.append(max(y, ys[-1] + LINE) if ys else y)
    limit: float = HEIGHT - BOTTOM
    for place in reversed(range(len(ys))):
        ys[place] = min(ys[place], limit)
        limit = ys[place] - LINE
    return [(y, name) for y, (_, name) in zip(ys, column, strict=True)]


def _at(x: float, y: float) -> tuple[float, float]:
    return LEFT + x * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM)


def _bins(axis: Axis) -> list[tuple[str, tuple[Any, Any]]]:
    """Label and bounds of each cell along an axis."""
    distinct = sorted(set(axis.values), key=_order)
    if not axis.is_numeric or len(distinct) <= DISTINCT:
        return [(number_text(value), (value, value)) for value in distinct]
    scale, back = (math.log, math.exp) if axis.log else (float, float)
    low, high = scale(float(distinct[0])), scale(float(distinct[-1]))
    edges = [back(low + (high - low) * step / 6) for step in range(7)]
    return [(f"{a:.2g} to {b:.2g}", (a, b)) for a, b in itertools.pairwise(edges)]


def _bin_of(value: Any, bins: Sequence[tuple[str, tuple[Any, Any]]]) -> int:
    for number, (_, (low, high)) in enumerate(bins):
        if value == low or (isinstance(value, int | float) and low <= value <= high):
            return number
    return len(bins) - 1


def _order(value: Any) -> tuple[bool, float, str]:
    is_number = isinstance(value, int | float)
    return (not is_number, float(value) if isinstance(value, int | float) else 0.0, str(value))


def _svg(width: float, height: float, body: str) -> str:
    return f"<div class='wide'><svg viewBox='0 0 {width:.0f} {height:.0f}' role='img'>{body}</svg></div>"
