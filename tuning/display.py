"""A sweep for people: a live table on a terminal, a line per event in a job's log."""

import time
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tuning.records import Records, TrialRecord
from tuning.spaces import describe

MAX_ROWS = 30
STYLES = {
    "running": "cyan",
    "lost": "yellow",
    "finished": "green",
    "stopped": "dim",
    "diverged": "magenta",
    "failed": "red",
}


class SweepDisplay(Protocol):
    """Shows a sweep while it is open."""

    def show(self, records: Records, changed: TrialRecord, kind: str) -> None:
        """Show a change."""

    def close(self) -> None:
        """Give the terminal back."""


def open_sweep_display(console: Console) -> SweepDisplay:
    """A table where the console is a terminal, lines where it is a file or a pipe."""
    return TableDisplay(console) if console.is_terminal else LineDisplay(console)


class LineDisplay:
    """One line per event."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def show(self, records: Records, changed: TrialRecord, kind: str) -> None:
        """Show a change."""
        line = event_line(changed, kind)
        if line:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Nothing to give back."""


class TableDisplay:
    """A table of all trials that is drawn anew at every change."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=2, transient=False)
        self._live.start()
        self._began_s = time.monotonic()

    def show(self, records: Records, changed: TrialRecord, kind: str) -> None:
        """Show a change."""
        if changed.status == "failed" and kind == "end":
            self._live.console.print(event_line(changed, kind), markup=False, highlight=False)
        self._live.update(sweep_table(records, elapsed_s=time.monotonic() - self._began_s))

    def close(self) -> None:
        """Leave the last table on the screen."""
        self._live.stop()


def event_line(record: TrialRecord, kind: str) -> str:
    """An event as a line of text; empty for those that nobody waits for."""
    name = f"trial {record.number}"
    last = record.evaluations[-1] if record.evaluations else None
    if kind == "given":
        again = f", again from epoch {last.epoch}" if last else ""
        return f"{name}: {describe(record.params)}{again}"
    if kind == "evaluation" and last:
        return f"{name}: epoch {last.epoch}, WER {last.wer:.2%}, best {record.best_wer:.2%} ({describe(record.params)})"
    if kind == "end" and record.status != "running":
        best = f", best WER {record.best_wer:.2%}" if record.best else ""
        epochs = f" after epoch {last.epoch}" if last else ""
        return f"{name}: {record.status}{epochs}{best}{f': {record.error}' if record.error else ''}"
    return ""


def sweep_table(records: Records, *, elapsed_s: float) -> Table:
    """Trials from best to worst, running ones marked; the middle is left out where there are many."""
    keys = list(dict.fromkeys(key for record in records for key in record.params))
    counts = [f"{sum(r.status == status for r in records)} {status}" for status in STYLES]
    shown = ", ".join(count for count in counts if not count.startswith("0 "))
    table = Table(title=f"{len(records)} trials: {shown}; {elapsed_s / 60:.1f} min")
    for name in ("trial", "status", "epoch", "WER", "best WER", *keys):
        table.add_column(name, justify="left" if name == "status" else "right")
    ranked = sorted(records, key=lambda record: record.rank)
    running = [record for record in ranked if record.status == "running"]
    kept = ranked[: MAX_ROWS - len(running)]
    for record in kept + [record for record in running if record not in kept]:
        last = record.evaluations[-1] if record.evaluations else None
        table.add_row(
            str(record.number),
            Text(record.status, style=STYLES[record.status]),
            str(last.epoch) if last else "",
            f"{last.wer:.2%}" if last else "",
            f"{record.best_wer:.2%}" if last else "",
            *(_cell(record.params.get(key, "")) for key in keys),
        )
    if len(ranked) > table.row_count:
        table.caption = f"{len(ranked) - table.row_count} worse ones are in results.parquet"
    return table


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
