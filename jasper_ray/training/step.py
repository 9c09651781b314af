"""One optimizer step: its micro-batches forward and backward, one gradient all-reduce, one update."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from jasper_ray.audio.augment import uniform
from jasper_ray.config.schema import TrainingConfig
from jasper_ray.data.batch import Batch
from jasper_ray.errors import ConfigError
from jasper_ray.model.convolution import forget_spectra
from jasper_ray.model.ctc import ctc_losses
from jasper_ray.model.ctc_triton import ctc_losses_triton
from jasper_ray.model.jasper import Jasper, set_normalization, set_residuals
from jasper_ray.model.triton_trial import triton_runs
from jasper_ray.training.batch_norm import apply_statistics, batch_norms, clear_statistics, combine_statistics
from jasper_ray.training.captured import CapturedPasses, CudaRecorder, Recorder
from jasper_ray.training.ema import WeightAverage
from jasper_ray.training.exchange import exchanging_gradients, forget_errors
from jasper_ray.training.figures import LocalSums, PendingStep, StepResult, read_steps
from jasper_ray.training.gradients import FlatGradients
from jasper_ray.training.world import World

DROPOUT_STREAM = 201
DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def _refuse_triton(config: TrainingConfig, device: torch.device) -> None:
    """Refuse what a config says to do in Triton, on a device that has none.

    Graphs too: workers of a run that have them exchange gradients in another way than those that have not.

    Raises:
        ConfigError: It says so.
    """
    asked = {"ctc": config.ctc == "triton", "normalization": config.normalization == "triton"}
    for key, is_asked in {**asked, "cuda_graphs": bool(config.cuda_graphs)}.items():
        if is_asked:
            value, instead = ("triton", "auto or torch") if key in asked else ("true", "false")
            raise ConfigError(
                f"training.{key}={value} needs an NVIDIA GPU and a Triton that works there, and this worker, "
                f"on {device}, has none (the log says what it lacks): pip install triton and set cluster.use_gpu=true, "
                f"or take training.{key}={instead}"
            )


class TrainStep:
    """Turns the micro-batches of a step into an update of the model.

    Args:
        model: On this worker's device.
        optimizer: Over its parameters.
        average: Averaged weights, or none.
        world: All workers; each must run every step.
        config: Precision, how CTC and norms are computed, how gradients are limited and exchanged.
        blank: CTC blank.
        seed: Dropout is drawn from (seed, global step, number of the micro-batch).

    Raises:
        ConfigError: The config wants Triton, which cannot be had here.
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
        on_triton = triton_runs(world.device)
        if not on_triton:
            _refuse_triton(config, world.device)
        set_normalization(model, config.normalization)
        set_residuals(model, config.residuals)
        self._ctc_in_triton = config.ctc == "triton" or (config.ctc == "auto" and on_triton)
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
        self.worker_s = 0.0
        """Host's seconds of the last step up to its last backward pass, which waits for the other workers."""
        self.decides_on_device = world.device.type == "cuda" and getattr(optimizer, "_step_supports_amp_scaling", False)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=config.precision == "fp16")
        self._encoder_is_frozen = False
        self._exchange = config.gradients
        wanted = world.size == 1 if config.cuda_graphs is None else config.cuda_graphs
        self._captures = wanted and on_triton and self._ctc_in_triton
        self._record: Recorder = CudaRecorder()
        self._begin_passes()

    def freeze_encoder(self, frozen: bool) -> None:
        """Let the encoder learn or not; all workers must do so after the same step."""
        if frozen == self._encoder_is_frozen:
            return
        self._encoder_is_frozen = frozen
        self._optimizer.zero_grad(set_to_none=True)
        self._model.encoder.requires_grad_(not frozen)
        self._norms = batch_norms(self._model.decoder if frozen else self._model)
        self._begin_passes()

    def _begin_passes(self) -> None:
        """Who runs forward and backward passes of those parameters that now learn, and exchanges their gradients."""
        self._parallel: nn.Module = self._model
        self._flat: FlatGradients | None = None
        self._passes: CapturedPasses | None = None
        if not self._captures:
            self._parallel = exchanging_gradients(self._model, self._world, self._exchange)
            return
        self._flat = FlatGradients(self._model.parameters())
        self._passes = CapturedPasses(
            self._pass,
            before_replay=self._model.encoder.draw_seed,
            around=lambda: forget_spectra(self._model),
            record=self._record,
        )

    @property
    def num_graphs(self) -> int:
        """CUDA graphs that have been recorded of micro-batches."""
        return 0 if self._passes is None else self._passes.num_graphs

    def _pass(self, batch: Batch, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Forward and backward of a micro-batch on the device, without a wait; losses and log-probs."""
        with self._autocast():
            log_probs, _ = self._model(batch.features, batch.feature_lengths, batch.places, batch.longest)
            losses = self._losses(log_probs, batch, batch)
            assert self._flat is not None
            self._flat.add_gradients_of(self.scaler.scale(losses.sum() * weight))
        return losses.detach(), log_probs.detach()

    def run(
        self, batches: Iterable[Batch], numbers: list[int], *, global_step: int, num_utterances: int, lr: float
    ) -> StepResult:
        """`start` and its figures, waiting for the device."""
        pending = self.start(batches, numbers, global_step=global_step, num_utterances=num_utterances, lr=lr)
        (result,) = read_steps([pending], self._world)
        return result

    def start(
        self, batches: Iterable[Batch], numbers: list[int], *, global_step: int, num_utterances: int, lr: float
    ) -> PendingStep:
        """Run one step; on a GPU it is queued and nothing waits for it.

        Args:
            batches: This worker's micro-batches of the step, in order.
            numbers: Their numbers within the step.
            global_step: Steps made before this one.
            num_utterances: Utterances of the step over all workers; the loss is their mean.
            lr: Learning rate of this update.
        """
        self._train_mode()
        clear_statistics(self._norms)
        self._zero_gradients()
        local, started_s = LocalSums(), time.perf_counter()
        iterator: Iterator[Batch] = iter(batches)
        for position, number in enumerate(numbers):
            given = next(iterator)
            torch.manual_seed(int(uniform(self._seed, DROPOUT_STREAM, global_step, number) * 2**53))
            if self._passes is not None:
                losses, log_probs = self._passes(given, 1 / num_utterances, self._world.device)
                self.worker_s = time.perf_counter() - started_s
                local.add(given, losses, log_probs, self._encoder_frames(given))
                continue
            batch = given.to(self._world.device)
            with self._gradients_exchanged(position == len(numbers) - 1), self._autocast():
                log_probs, _ = self._parallel(batch.features, batch.feature_lengths, batch.places, batch.longest)
                losses = self._losses(log_probs, given, batch)
                self.worker_s = time.perf_counter() - started_s
                # DDP divides the summed gradients by the number of workers; the mean is over utterances.
                weight = self._world.size / num_utterances
                self.scaler.scale(losses.sum() * weight).backward()  # type: ignore[no-untyped-call]
            local.add(given, losses.detach(), log_probs.detach(), self._encoder_frames(given))
        if not numbers and self._flat is None:
            self._take_part_without_data()
        return self._update(local, num_microbatches=len(numbers), lr=lr)

    def _zero_gradients(self) -> None:
        if self._flat is None:
            self._optimizer.zero_grad(set_to_none=True)
        else:
            self._flat.zero()

    def forget_exchange_errors(self) -> None:
        """After a step that was not finite: what a compression carries over would never be finite again."""
        forget_errors(self._parallel)

    def _train_mode(self) -> None:
        self._model.train()
        if self._encoder_is_frozen:
            self._model.encoder.eval()

    @property
    def device(self) -> torch.device:
        """Where steps are computed."""
        return self._world.device

    def probe(self, batch: Batch) -> None:
        """Forward and backward of a micro-batch, and memory for an update, without an effect on anything.

        Raises:
            torch.OutOfMemoryError: The device has too little.
        """
        on_gpu = [self.device] if self.device.type == "cuda" else []
        static = self._exchange.static_graph
        if static:  # its first backward pass must be one that exchanges
            self._parallel = self._model
        self._zero_gradients()
        with torch.random.fork_rng(on_gpu):
            self._train_mode()
            given, batch = batch, batch.to(self.device)
            # DDP's own forward and buckets, but nothing is exchanged: workers need not be here at the same time.
            with self._gradients_exchanged(False), self._autocast():
                log_probs, _ = self._parallel(batch.features, batch.feature_lengths, batch.places, batch.longest)
                losses = self._losses(log_probs, given, batch)
                losses.sum().backward()  # type: ignore[no-untyped-call]
            # An update's intermediate tensors, and the optimizer's state where it is not there yet.
            num_copies = 1 if self._optimizer.state else 2
            room = [torch.empty_like(p) for _ in range(num_copies) for p in self._model.parameters()]
            del room
        self._optimizer.zero_grad(set_to_none=True)
        clear_statistics(self._norms)
        forget_spectra(self._model)
        if static:
            self._parallel = exchanging_gradients(self._model, self._world, self._exchange)

    def _losses(self, log_probs: Tensor, given: Batch, batch: Batch) -> Tensor:
        """`(B,)` losses of a micro-batch, which is `given` as the host has it and `batch` on the device."""
        if self._ctc_in_triton:
            frames = self._encoder_frames(batch)
            return ctc_losses_triton(log_probs, frames, batch.labels, batch.label_lengths, blank=self._blank)
        # Lengths as the host knows them: torch's CTC would wait for the device to tell.
        frames = self._encoder_frames(given)
        return ctc_losses(log_probs, frames, batch.labels, given.label_lengths, blank=self._blank)

    def _encoder_frames(self, batch: Batch) -> Tensor:
        """`(B,)` encoder frames of each utterance."""
        return -(-batch.feature_lengths // self._model.total_stride)

    def _take_part_without_data(self) -> None:
        """A worker without micro-batches must still join the all-reduce, with zero gradients."""
        features = torch.zeros(1, self._model.encoder.num_mels, 64, device=self._world.device)
        log_probs, _ = self._parallel(features, torch.tensor([64], device=self._world.device))
        (log_probs.sum() * 0).backward()
        clear_statistics(self._norms)

    def _update(self, local: LocalSums, *, num_microbatches: int, lr: float) -> PendingStep:
        device = self._world.device
        statistics = combine_statistics(self._norms, num_microbatches=num_microbatches, world=self._world)
        sums = self._world.sum(local.sums(device))
        if self._flat is not None:
            self._flat.sum_over(self._world, self._exchange)
        self.scaler.unscale_(self._optimizer)
        grads = [parameter.grad for parameter in self._model.parameters() if parameter.grad is not None]
        grad_norm = torch.nn.utils.get_total_norm(grads)
        # The same on every worker: the loss is their sum, and the gradients have been exchanged.
        finite = sums[0].isfinite() & grad_norm.isfinite()
        if self._max_grad_norm is not None:
            torch._foreach_mul_(grads, (self._max_grad_norm / grad_norm).clamp(max=1.0))
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group.get("lr_factor", 1.0)
        self._make_if(finite, statistics)
        self.scaler.update()
        return PendingStep(
            figures=torch.cat([sums, torch.stack([grad_norm, finite]).double()]),
            losses=local.losses(device),
            rows=local.rows,
            sample=local.sample,
        )

    def _make_if(self, finite: Tensor, statistics: Tensor) -> None:
        """Update all that training changes, or nothing of it, where loss or gradient are not finite.

        On a GPU without asking it: what may not change is written again as it was.
        """
        unless = None
        if self.decides_on_device:
            unless = ~finite
        elif not finite:
            return
        self._optimizer.grad_scale, self._optimizer.found_inf = None, None  # type: ignore[attr-defined]
        if unless is not None:
            self._optimizer.found_inf = unless.float()  # type: ignore[attr-defined]
        self._optimizer.step()
        apply_statistics(self._norms, statistics, unless=unless)
        if self._average is not None:
            self._average.update(self._model, unless=unless)

    @contextmanager
    def _gradients_exchanged(self, last: bool) -> Iterator[None]:
        """All-reduce only in the last backward of a step, overlapped with it."""
        no_sync = isinstance(self._parallel, DistributedDataParallel) and not last
        with self._parallel.no_sync() if no_sync else nullcontext():  # type: ignore[operator]
            yield

    def _autocast(self) -> Any:
        return torch.autocast(self._world.device.type, dtype=self._dtype, enabled=self._dtype != torch.float32)
