"""One optimizer step: its micro-batches forward and backward, one gradient all-reduce, one update."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from jasper_ray.audio.augment import uniform
from jasper_ray.config.schema import OptimizerConfig, TrainingConfig
from jasper_ray.data.batch import Batch
from jasper_ray.model.convolution import forget_spectra
from jasper_ray.model.ctc import ctc_losses
from jasper_ray.model.jasper import Jasper
from jasper_ray.training.batch_norm import apply_statistics, batch_norms, clear_statistics, combine_statistics
from jasper_ray.training.ema import WeightAverage
from jasper_ray.training.novograd import Novograd
from jasper_ray.training.world import World

DROPOUT_STREAM = 201
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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
    sample: tuple[int, Tensor, Tensor] | None
    """Manifest row, log-probs `(1, T, V)` and length of one utterance of this worker."""


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> Optimizer:
    """The optimizer that a config names, over all parameters in one group."""
    betas = (config.beta1, config.beta2)
    parameters = list(model.parameters())
    if config.name == "novograd":
        return Novograd(parameters, lr=config.lr, betas=betas, eps=config.eps, weight_decay=config.weight_decay)
    return torch.optim.AdamW(
        parameters, lr=config.lr, betas=betas, eps=config.eps, weight_decay=config.weight_decay, foreach=True
    )


class TrainStep:
    """Turns the micro-batches of a step into an update of the model.

    Args:
        model: On this worker's device.
        optimizer: Over its parameters.
        average: Averaged weights, or none.
        world: All workers; each must run every step.
        config: Precision.
        blank: CTC blank.
        seed: Dropout is drawn from (seed, global step, number of the micro-batch).
    """

    def __init__(
        self,
        model: Jasper,
        optimizer: Optimizer,
        average: WeightAverage | None,
        *,
        world: World,
        config: TrainingConfig,
        blank: int,
        seed: int,
    ) -> None:
        self._model = model
        self._world = world
        self._optimizer = optimizer
        optimizer.register_step_post_hook(lambda *_: forget_spectra(model))  # a fused update goes unnoticed
        self._average = average
        self._blank = blank
        self._seed = seed
        self._dtype = DTYPES[config.precision]
        self._max_grad_norm = config.max_grad_norm
        self._norms = batch_norms(model)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=config.precision == "fp16")
        self._parallel: nn.Module = model
        if world.size > 1:
            ids = [world.device.index] if world.device.type == "cuda" else None
            with warnings.catch_warnings():  # newer torch renames broadcast_buffers, older torch has no other name
                warnings.simplefilter("ignore", FutureWarning)
                # Running statistics are combined by us, once a step; DDP would copy rank 0's.
                self._parallel = DistributedDataParallel(
                    model, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True
                )

    def run(
        self, batches: Iterable[Batch], numbers: list[int], *, global_step: int, num_utterances: int, lr: float
    ) -> StepResult:
        """Run one step.

        Args:
            batches: This worker's micro-batches of the step, in order.
            numbers: Their numbers within the step.
            global_step: Steps made before this one.
            num_utterances: Utterances of the step over all workers; the loss is their mean.
            lr: Learning rate of this update.
        """
        self._model.train()
        clear_statistics(self._norms)
        self._optimizer.zero_grad(set_to_none=True)
        local = _LocalSums()
        # DDP divides the summed gradients by the number of workers; the mean is over utterances.
        weight = self._world.size / num_utterances
        iterator: Iterator[Batch] = iter(batches)
        for position, number in enumerate(numbers):
            batch = next(iterator).to(self._world.device)
            torch.manual_seed(int(uniform(self._seed, DROPOUT_STREAM, global_step, number) * 2**53))
            with self._gradients_exchanged(position == len(numbers) - 1), self._autocast():
                log_probs, lengths = self._parallel(batch.features, batch.feature_lengths, batch.places, batch.longest)
                losses = ctc_losses(log_probs, lengths, batch.labels, batch.label_lengths, blank=self._blank)
                self.scaler.scale(losses.sum() * weight).backward()  # type: ignore[no-untyped-call]
            local.add(batch, losses.detach(), log_probs.detach(), lengths)
        if not numbers:
            self._take_part_without_data()
        return self._update(local, num_microbatches=len(numbers), lr=lr)

    def _take_part_without_data(self) -> None:
        """A worker without micro-batches must still join the all-reduce, with zero gradients."""
        features = torch.zeros(1, self._model.encoder.num_mels, 64, device=self._world.device)
        log_probs, _ = self._parallel(features, torch.tensor([64], device=self._world.device))
        (log_probs.sum() * 0).backward()
        clear_statistics(self._norms)

    def _update(self, local: "_LocalSums", *, num_microbatches: int, lr: float) -> StepResult:
        statistics = combine_statistics(self._norms, num_microbatches=num_microbatches, world=self._world)
        sums = self._world.sum(local.sums(self._world.device)).tolist()
        self.scaler.unscale_(self._optimizer)
        grads = [parameter.grad for parameter in self._model.parameters() if parameter.grad is not None]
        grad_norm = float(torch.nn.utils.get_total_norm(grads))
        loss_sum, num_utterances, audio_s, frames, padded_frames, num_bad = sums
        overflow = not bool(torch.isfinite(torch.tensor([loss_sum, grad_norm])).all())
        if not overflow:
            if self._max_grad_norm is not None and grad_norm > self._max_grad_norm:
                torch._foreach_mul_(grads, self._max_grad_norm / grad_norm)
            for group in self._optimizer.param_groups:
                group["lr"] = lr
            self.scaler.step(self._optimizer)
            apply_statistics(self._norms, statistics)
            if self._average is not None:
                self._average.update(self._model)
        self.scaler.update()
        bad_rows = self._world.gather(local.bad_rows) if num_bad else []
        return StepResult(
            loss=loss_sum / num_utterances,
            grad_norm=grad_norm,
            num_utterances=round(num_utterances),
            audio_s=audio_s,
            padding_share=1 - frames / padded_frames,
            skipped=overflow,
            bad_rows=tuple(row for rows in bad_rows for row in rows),
            sample=local.sample,
        )

    @contextmanager
    def _gradients_exchanged(self, last: bool) -> Iterator[None]:
        """All-reduce only in the last backward of a step, overlapped with it."""
        no_sync = isinstance(self._parallel, DistributedDataParallel) and not last
        with self._parallel.no_sync() if no_sync else nullcontext():  # type: ignore[operator]
            yield

    def _autocast(self) -> Any:
        return torch.autocast(self._world.device.type, dtype=self._dtype, enabled=self._dtype != torch.float32)


class _LocalSums:
    """What one worker adds up over its micro-batches."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._num_utterances = 0
        self._audio_s = 0.0
        self._frames: list[Tensor] = []
        self._padded_frames = 0
        self._rows: list[int] = []
        self.sample: tuple[int, Tensor, Tensor] | None = None

    def add(self, batch: Batch, losses: Tensor, log_probs: Tensor, lengths: Tensor) -> None:
        self._losses.append(losses)
        self._num_utterances += len(batch.indices)
        self._audio_s += batch.audio_s
        self._frames.append(batch.feature_lengths.sum())
        self._padded_frames += batch.features.shape[0] * batch.features.shape[2]
        self._rows += batch.indices
        if self.sample is None:
            self.sample = (batch.indices[0], log_probs[:1], lengths[:1])

    def sums(self, device: torch.device) -> Tensor:
        """Loss, utterances, seconds, frames, frames with padding, utterances whose loss is not finite; float64."""
        losses = (
            torch.cat(self._losses).double() if self._losses else torch.zeros(0, dtype=torch.float64, device=device)
        )
        frames = torch.stack(self._frames).sum() if self._frames else torch.zeros((), device=device)
        known = [self._num_utterances, self._audio_s, 0, self._padded_frames, 0]
        sums = torch.tensor([0, *known], dtype=torch.float64, device=device)
        sums[0], sums[3], sums[5] = losses.sum(), frames, (~losses.isfinite()).sum()
        return sums

    @property
    def bad_rows(self) -> list[int]:
        losses = torch.cat(self._losses) if self._losses else torch.zeros(0)
        return [row for row, finite in zip(self._rows, losses.isfinite().tolist(), strict=True) if not finite]
