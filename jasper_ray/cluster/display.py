"""A run's events for people: a progress bar on a terminal, plain lines in a job log."""

from collections.abc import Mapping
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from jasper_ray.training.report import EventKind


class Display(Protocol):
    """A reporter that owns the terminal while it is open."""

    def report(self, kind: EventKind, values: Mapping[str, object]) -> None:
        """Show one event."""

    def close(self) -> None:
        """Give the terminal back."""


def open_display(console: Console) -> Display:
    """A bar where the console is a terminal, lines where it is a file or a pipe."""
    return BarDisplay(console) if console.is_terminal else LineDisplay(console)


class LineDisplay:
    """One line per event."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def report(self, kind: EventKind, values: Mapping[str, object]) -> None:
        """Show one event."""
        for line in event_lines(kind, values):
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Nothing to give back."""


class BarDisplay:
    """A bar with the figures of the last progress event; all other events scroll above it."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("[bold]training"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}", markup=False),
            console=console,
        )
        self._task: TaskID | None = None
        self._progress.start()

    def report(self, kind: EventKind, values: Mapping[str, object]) -> None:
        """Show one event."""
        if kind != "progress":
            for line in event_lines(kind, values):
                self._progress.console.print(line, markup=False, highlight=False)
            return
        figures, completed, total = _figures(values), values["global_step"], values["total_steps"]
        if self._task is None:
            self._task = self._progress.add_task("training", total=_number(total), figures=figures)
        self._progress.update(self._task, completed=_number(completed), total=_number(total), figures=figures)

    def close(self) -> None:
        """Leave the finished bar on the screen."""
        self._progress.stop()


def event_lines(kind: EventKind, values: Mapping[str, Any]) -> list[str]:
    """An event as lines of text."""
    if kind == "progress":
        where = f"epoch {values['epoch']}/{values['epochs']} step {values['step']}/{values['steps_in_epoch']}"
        return [f"{where} ({values['global_step']} of {values['total_steps']}) | {_figures(values)}"]
    if kind == "sample":
        return [f"  reference:  {values['reference']}", f"  hypothesis: {values['hypothesis']}"]
    if kind == "evaluation":
        plain = f", without averaging {values['plain_wer']:.2%}" if "plain_wer" in values else ""
        return [
            f"evaluation at step {values['global_step']}: WER {values['wer']:.2%}{plain}, CER {values['cer']:.2%}, "
            f"loss {values['loss']:.3f}, {values['num_utterances']} utterances in {values['took_s']:.1f} s"
        ]
    if kind == "checkpoint":
        return [f"checkpoint at step {values['global_step']}: {values['uri']}"]
    if kind == "start":
        return _start_lines(values)
    if kind == "warning":
        utterances = f": {', '.join(values['utterances'][:10])}" if values["utterances"] else ""
        return [f"warning at step {values['global_step']}: {values['message']}{utterances}"]
    return []


def _start_lines(values: Mapping[str, Any]) -> list[str]:
    lines = [
        f"run {values['name']}: {values['num_parameters']:,} parameters, {values['workers']} workers, "
        f"{values['train_utterances']} training utterances ({values['train_hours']:.2f} h), "
        f"{values['evaluation_utterances']} for evaluation, {values['steps_per_epoch']} steps per epoch, "
        f"{values['epochs']} epochs; output {values['output']}, written from {values['host']}"
    ]
    left_out = [f"{values[f'left_out_too_{what}']} too {what}" for what in ("short", "long")]
    infeasible = values["left_out_infeasible"]
    if infeasible or values["left_out_too_short"] or values["left_out_too_long"]:
        names = f" ({', '.join(infeasible[:5])}{', …' if len(infeasible) > 5 else ''})" if infeasible else ""
        lines.append(f"left out: {', '.join(left_out)}, {len(infeasible)} too short for their transcripts{names}")
    if probe := values.get("memory_probe"):
        memory = f", {probe['memory_gb']:.1f} GB" if "memory_gb" in probe else ""
        lines.append(f"largest micro-batch: {probe['microbatch']}, tried in {probe['took_s']:.1f} s{memory}")
    if values["resumed_from"]:
        lines.append(f"resumed at step {values['global_step']} from {values['resumed_from']}")
    return lines


def _figures(values: Mapping[str, Any]) -> str:
    loss = "not finite" if values["loss"] is None else f"{values['loss']:.3f}"
    skipped = f" | {values['skipped_steps']} steps skipped" if values["skipped_steps"] else ""
    return (
        f"loss {loss} | lr {values['lr']:.5f} | {values['utterances_per_s']:.1f} utterances/s | "
        f"padding {values['padding_share']:.1%} | waiting for data {values['loader_wait_share']:.1%}{skipped}"
    )


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return float(value)
