"""The figures of training steps: summed up on the device, read by the host when it wants to wait."""

from dataclasses import dataclass

import torch
from torch import Tensor

from jasper_ray.data.batch import Batch
from jasper_ray.training.world import World

Sample = tuple[int, Tensor, Tensor]


@dataclass(frozen=True)
class StepResult:
    """Figures of a step over all workers."""

    loss: float
    """Mean CTC loss per utterance."""
    grad_norm: float
    """Norm of all gradients together, before any clipping."""
    num_utterances: int
    audio_s: float
    padding_share: float
    """Share of the feature frames that was padding."""
    skipped: bool
    """Whether loss or gradient was not finite, so that the weights were left alone."""
    bad_rows: tuple[int, ...]
    """Manifest rows whose loss was not finite, over all workers."""
    sample: Sample | None
    """Manifest row, log-probs `(1, T, V)` and length of one utterance of this worker."""


@dataclass(frozen=True)
class PendingStep:
    """A step whose figures still lie on the device, where all that depends on them was decided."""

    figures: Tensor
    """`(8,)` float64: loss, utterances, seconds, frames, frames with padding and utterances without finite loss, summed
    over all workers; norm of the gradients; whether the step was made."""
    losses: Tensor
    """Of this worker's utterances."""
    rows: tuple[int, ...]
    """Their manifest rows."""
    sample: Sample | None


class LocalSums:
    """What one worker adds up over the micro-batches of a step; asks the device nothing."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._num_utterances = 0
        self._audio_s = 0.0
        self._frames = 0
        self._padded_frames = 0
        self._rows: list[int] = []
        self.sample: Sample | None = None

    def add(self, batch: Batch, losses: Tensor, log_probs: Tensor, lengths: Tensor) -> None:
        """Take in a micro-batch, whose lengths lie in the host's memory."""
        self._losses.append(losses)
        self._num_utterances += len(batch.indices)
        self._audio_s += batch.audio_s
        self._frames += int(batch.feature_lengths.sum())
        self._padded_frames += batch.features.shape[0] * batch.features.shape[2]
        self._rows += batch.indices
        if self.sample is None:
            self.sample = (batch.indices[0], log_probs[:1], lengths[:1])

    def sums(self, device: torch.device) -> Tensor:
        """Loss, utterances, seconds, frames, frames with padding, utterances whose loss is not finite; float64."""
        known = [0, self._num_utterances, self._audio_s, self._frames, self._padded_frames, 0]
        # Pinned: the host would wait for the device to copy from other memory.
        sums = torch.tensor(known, dtype=torch.float64, pin_memory=device.type == "cuda")
        sums = sums.to(device, non_blocking=True)
        if self._losses:
            losses = self.losses(device).double()
            sums[0], sums[5] = losses.sum(), (~losses.isfinite()).sum()
        return sums

    def losses(self, device: torch.device) -> Tensor:
        """`(utterances,)` in the order of `rows`."""
        return torch.cat(self._losses) if self._losses else torch.zeros(0, device=device)

    @property
    def rows(self) -> tuple[int, ...]:
        """Manifest rows of this worker's utterances."""
        return tuple(self._rows)


def read_steps(steps: list[PendingStep], world: World) -> list[StepResult]:
    """The figures of steps, by asking the device once.

    Every worker must call this for the same steps: where a loss was not finite, all tell which utterances theirs were.
    """
    if not steps:
        return []
    table = torch.stack([step.figures for step in steps]).tolist()
    bad: list[tuple[int, ...]] = [()] * len(steps)
    suspicious = [number for number, row in enumerate(table) if row[5]]
    if suspicious:
        mine = {number: _bad_rows(steps[number]) for number in suspicious}
        shares = world.gather(mine)
        for number in suspicious:
            bad[number] = tuple(row for share in shares for row in share[number])
    return [
        StepResult(
            loss=loss / num_utterances,
            grad_norm=grad_norm,
            num_utterances=round(num_utterances),
            audio_s=audio_s,
            padding_share=1 - frames / padded_frames,
            skipped=not made,
            bad_rows=bad_rows,
            sample=step.sample,
        )
        for step, bad_rows, (loss, num_utterances, audio_s, frames, padded_frames, _, grad_norm, made) in zip(
            steps, bad, table, strict=True
        )
    ]


def _bad_rows(step: PendingStep) -> list[int]:
    return [row for row, finite in zip(step.rows, step.losses.isfinite().tolist(), strict=True) if not finite]
