"""Loss and word error rate of a run as a picture."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from jasper_ray.errors import DataError
from jasper_ray.training.report import read_log

LOSS_COLOUR, WER_COLOUR = "#1f6fb4", "#c8501e"


def plot_curves(output: str, png: Path, *, title: str) -> None:
    """Draw a run's log as a PNG: training and evaluation loss above, word error rate below.

    Args:
        output: Folder of the run, with its `log.jsonl`.
        png: Where the picture goes.
        title: Above the picture.

    Raises:
        DataError: The run has logged nothing.
    """
    events = read_log(output)
    progress = [event for event in events if event["event"] == "progress" and event["loss"] is not None]
    evaluations = [event for event in events if event["event"] == "evaluation"]
    if not progress and not evaluations:
        raise DataError(f"{output} has no log of a run: train first, or name the run's output folder")
    matplotlib.use("Agg")
    figure = Figure(figsize=(8, 6), dpi=120, layout="constrained")
    loss_axes, wer_axes = figure.subplots(2, 1, sharex=True)
    loss_axes.plot(*_columns(progress, "loss"), color=LOSS_COLOUR, label="training", linewidth=1.2)
    loss_axes.plot(*_columns(evaluations, "loss"), color=WER_COLOUR, marker="o", markersize=4, label="evaluation")
    loss_axes.set_yscale("log")
    loss_axes.set_ylabel("CTC loss per utterance (nats)")
    loss_axes.legend()
    steps, rates = _columns(evaluations, "wer")
    wer_axes.plot(steps, [100 * rate for rate in rates], color=WER_COLOUR, marker="o", markersize=4)
    for step, rate in list(zip(steps, rates, strict=True))[-1:]:
        wer_axes.annotate(
            f"{100 * rate:.2f} %", (step, 100 * rate), textcoords="offset points", xytext=(-8, 8), ha="right"
        )
    wer_axes.set_ylabel("word error rate (%)")
    wer_axes.set_ylim(bottom=0)
    wer_axes.set_xlabel("optimizer step")
    for axes in (loss_axes, wer_axes):
        axes.grid(alpha=0.3)
    loss_axes.set_title(title)
    png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png)


def _columns(events: list[dict[str, object]], key: str) -> tuple[list[float], list[float]]:
    steps, values = [], []
    for event in events:
        step, value = event["global_step"], event[key]
        if isinstance(step, int | float) and isinstance(value, int | float):
            steps.append(float(step))
            values.append(float(value))
    return steps, values
