"""The learning-rate range test: one short run whose learning rate rises at every step, and what its losses say.

Source: Smith 2017, "Cyclical learning rates for training neural networks", with rates that rise by equal factors.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from pydantic import Field, model_validator

from jasper_ray.config.schema import RunConfig
from jasper_ray.config.strict import StrictModel
from jasper_ray.errors import DataError
from jasper_ray.storage import object_store
from jasper_ray.training.report import read_log
from tuning.charts import Axis, marked_curve
from tuning.page import page

FOLDER, PAGE_FILE = "lr_range_test", "report.html"
SMOOTHING = 0.9
BLOWN_UP = 1.5
"""A smoothed loss this many times above the lowest one so far has left the range."""
MIN_STEPS = 10


class RangeConfig(StrictModel):
    """What a range test goes through."""

    low_lr: float = Field(1e-4, gt=0)
    """Learning rate of the first step."""
    high_lr: float = Field(1.0, gt=0)
    """Learning rate of the last step."""
    steps: int = Field(200, ge=MIN_STEPS)
    """Optimizer steps in all."""

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.low_lr >= self.high_lr:
            raise ValueError(f"low_lr={self.low_lr:g} must be below high_lr={self.high_lr:g}")
        return self


@dataclass(frozen=True)
class RangeFigures:
    """What the losses say."""

    steps: int
    steepest_lr: float
    """Where the smoothed loss fell fastest: a careful choice."""
    lowest_lr: float
    """Where the smoothed loss was lowest: more than this is too much."""
    blown_up_lr: float | None
    """Where it had risen again by half; None if it never did, so that a higher `range.high_lr` may be worth a look."""


def range_run(config: RunConfig, settings: RangeConfig, *, steps_per_epoch: int) -> RunConfig:
    """The run of the test: no decay, no averaged weights, no evaluation before its end, a folder of its own."""
    epochs = math.ceil(settings.steps / steps_per_epoch)
    schedule = config.schedule.model_copy(
        update={
            "policy": "constant",
            "warmup_epochs": settings.steps / steps_per_epoch,
            "warmup_shape": "exponential",
            "min_lr": settings.low_lr,
        }
    )
    training = config.training.model_copy(
        update={
            "epochs": epochs,
            "stop_after_steps": settings.steps,
            "log_every_steps": 1,
            "log_utterances": False,
            "evaluate_every_epochs": epochs + 1,
            "evaluate_every_steps": None,
            "ema_decay": 0.0,
        }
    )
    return config.model_copy(
        update={
            "name": f"{config.name}-lr-range-test",
            "output": object_store.join(config.output, FOLDER),
            "resume": "never",
            "optimizer": config.optimizer.model_copy(update={"lr": settings.high_lr}),
            "schedule": schedule,
            "training": training,
            "data": config.data.model_copy(update={"evaluation": ()}),
            "checkpoint": config.checkpoint.model_copy(update={"every_steps": None, "every_epochs": epochs + 1}),
        }
    )


def read_curve(output: str) -> list[tuple[float, float]]:
    """Learning rate and loss of every step of a test; steps without a finite loss are left out."""
    events = [event for event in read_log(output) if event["event"] == "progress" and event["loss"] is not None]
    return [(float(str(event["lr"])), float(str(event["loss"]))) for event in events]


def range_figures(curve: Sequence[tuple[float, float]]) -> RangeFigures:
    """Read the curve.

    Raises:
        DataError: There are too few finite losses.
    """
    if len(curve) < MIN_STEPS:
        raise DataError(
            f"only {len(curve)} steps had a finite loss, a range test needs {MIN_STEPS}: lower range.low_lr"
        )
    losses = smoothed([loss for _, loss in curve])
    # The first steps' mean is of few losses and jumps.
    begin = min(len(losses) // 10, 10)
    lowest = min(range(begin, len(losses)), key=lambda step: losses[step])
    slopes = [losses[step + 1] - losses[step] for step in range(begin, lowest)]
    steepest = begin + min(range(len(slopes)), key=lambda step: slopes[step]) if slopes else lowest
    after = [
        lr for (lr, _), loss in zip(curve[lowest:], losses[lowest:], strict=True) if loss > BLOWN_UP * losses[lowest]
    ]
    return RangeFigures(len(curve), curve[steepest][0], curve[lowest][0], after[0] if after else None)


def smoothed(losses: Sequence[float]) -> list[float]:
    """A moving average without the pull of its beginning."""
    mean, found = 0.0, []
    for number, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        found.append(mean / (1 - SMOOTHING**number))
    return found


def write_range_report(config: RunConfig, curve: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Write the page of a test; returns its figures and where it lies."""
    figures = range_figures(curve)
    marks = [(figures.steepest_lr, f"steepest: {figures.steepest_lr:.3g}")]
    marks.append((figures.lowest_lr, f"lowest: {figures.lowest_lr:.3g}"))
    if figures.blown_up_lr is not None:
        marks.append((figures.blown_up_lr, f"blown up: {figures.blown_up_lr:.3g}"))
    rates = Axis("learning rate", [rate for rate, _ in curve], log=True)
    losses = Axis("loss", smoothed([loss for _, loss in curve]), log=True)
    low, high = figures.steepest_lr / 3, figures.lowest_lr
    body = [
        f"<h1>Learning-rate range test: {config.name}</h1>",
        f"<p>The learning rate rose by equal factors over {figures.steps} steps. The loss fell fastest at "
        f"<b>{figures.steepest_lr:.3g}</b> and was lowest at <b>{figures.lowest_lr:.3g}</b>.</p>",
        marked_curve(rates, losses, marks),
        "<p class='soft'>Smoothed training loss per utterance, both scales logarithmic. Warm-up, decay and averaged "
        "weights, which a run has, allow more than this test shows; take it as the range of a sweep:</p>",
        f"<pre>space:\n  optimizer.lr: {{loguniform: [{low:.2g}, {high:.2g}]}}</pre>" if low < high else "",
    ]
    uri = object_store.join(config.output, PAGE_FILE)
    object_store.write_bytes(uri, page(f"range test: {config.name}", body).encode())
    return {"output": config.output, **asdict(figures), "report": uri}
