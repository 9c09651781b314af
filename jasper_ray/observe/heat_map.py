"""Figures over two knobs as a picture."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure


def plot_heat_map(
    png: Path,
    values: Sequence[Sequence[float]],
    *,
    columns: Sequence[float],
    rows: Sequence[float],
    column_label: str,
    row_label: str,
    title: str,
) -> None:
    """Draw a table of figures, the lowest one framed.

    Args:
        png: Where the picture goes.
        values: One row of figures per entry of `rows`.
        columns: What the figures of a row belong to.
        rows: What the rows belong to.
        column_label: Name of the knob along the columns.
        row_label: Name of the knob along the rows.
        title: What the figures are.
    """
    matplotlib.use("Agg")
    figure = Figure(figsize=(1.5 + 0.8 * len(columns), 1.8 + 0.5 * len(rows)), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.imshow(values, cmap="viridis_r", aspect="auto")
    lowest = min((value, row, column) for row, line in enumerate(values) for column, value in enumerate(line))
    middle = (lowest[0] + max(max(line) for line in values)) / 2
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            framed = (row, column) == lowest[1:]
            axes.text(
                column,
                row,
                f"{value:.2f}",
                ha="center",
                va="center",
                color="white" if value > middle else "black",
                fontweight="bold" if framed else "normal",
                bbox={"fill": False, "edgecolor": "black", "linewidth": 1.5} if framed else None,
            )
    axes.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    axes.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
    axes.set_xlabel(column_label)
    axes.set_ylabel(row_label)
    axes.set_title(title)
    png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png)
