"""Sums over the steps between two progress events."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from jasper_ray.data.batch import Batch
from jasper_ray.training.figures import StepResult


@dataclass
class Window:
    """Sums since the last progress event."""

    started_s: float = field(default_factory=time.monotonic)
    losses: list[float] = field(default_factory=list)
    utterances: int = 0
    audio_s: float = 0.0
    padding: list[float] = field(default_factory=list)
    wait_s: float = 0.0
    worker_s: float = 0.0
    skipped: int = 0
    steps: int = 0
    grad_norm: float | None = None
    """Of the last step that had one."""

    def leave_out_s(self, seconds: float) -> None:
        """Time that was not training."""
        self.started_s += seconds

    def add(self, result: StepResult) -> None:
        """Take in a step."""
        self.steps += 1
        self.utterances += result.num_utterances
        self.audio_s += result.audio_s
        self.padding.append(result.padding_share)
        if np.isfinite(result.grad_norm):
            self.grad_norm = result.grad_norm
        if result.skipped:
            self.skipped += 1
        else:
            self.losses.append(result.loss)

    def figures(self) -> dict[str, float | int | None]:
        """For a progress event."""
        elapsed_s = time.monotonic() - self.started_s
        return {
            "loss": float(np.mean(self.losses)) if self.losses else None,
            "grad_norm": self.grad_norm,
            "step_s": elapsed_s / self.steps,
            "worker_s": self.worker_s / self.steps,
            "utterances_per_s": self.utterances / elapsed_s,
            "audio_s_per_s": self.audio_s / elapsed_s,
            "padding_share": float(np.mean(self.padding)),
            "loader_wait_share": self.wait_s / elapsed_s,
            "skipped_steps": self.skipped,
        }


class TimedBatches:
    """Counts the seconds that training waits for the loader."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self.wait_s = 0.0

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        started_s = time.monotonic()
        batch = next(self._batches)
        self.wait_s += time.monotonic() - started_s
        return batch
