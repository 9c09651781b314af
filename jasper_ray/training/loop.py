"""The training loop: plain, resumable at any step, the same on any number of workers."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from jasper_ray.config.schema import RunConfig
from jasper_ray.data.batch import BatchLoader
from jasper_ray.data.epoch_plan import rank_microbatches
from jasper_ray.data.manifest import Manifest
from jasper_ray.data.packing import RowShape
from jasper_ray.data.plan import RunPlan, plan_evaluation
from jasper_ray.data.shard_feed import Feed
from jasper_ray.data.source import EncodedUtterance, UtteranceSource
from jasper_ray.errors import NonFiniteError
from jasper_ray.model.ctc import greedy_decode
from jasper_ray.storage import object_store
from jasper_ray.text.alphabet import Alphabet
from jasper_ray.text.wer import count_errors
from jasper_ray.training.checkpoint import BUNDLE
from jasper_ray.training.evaluate import Evaluation, Forward, evaluate
from jasper_ray.training.figures import PendingStep, StepResult, read_steps
from jasper_ray.training.report import Reporter
from jasper_ray.training.schedule import learning_rate
from jasper_ray.training.state import RunState
from jasper_ray.training.window import TimedBatches, Window
from jasper_ray.training.world import World
from jasper_ray.training.writer import BackgroundWriter

logger = logging.getLogger(__name__)

Notice = Callable[[], str]
"""What is known of machines that are about to be taken away, the same on every worker; empty while none is."""
SAVE_AGAIN_S = 15.0
"""Between two checkpoints of a run whose machine is about to go."""


@dataclass(frozen=True)
class RunData:
    """What a run reads."""

    train: Manifest
    train_source: UtteranceSource
    shard_feed: Feed
    """Fetches what `train_source` is going to read."""
    plan: RunPlan
    evaluation: Manifest | None
    evaluation_source: UtteranceSource | None
    make_loader: Callable[[], BatchLoader]


@dataclass(frozen=True)
class Position:
    """A step of the run and this worker's share of it."""

    epoch: int
    step: int
    steps_in_epoch: int
    num_utterances: int
    """Over all workers."""
    microbatches: list[tuple[int, np.ndarray]]
    """Number within the step and manifest rows, this worker's only."""

    @property
    def is_last_of_epoch(self) -> bool:
        """Whether the epoch ends with this step."""
        return self.step == self.steps_in_epoch - 1


def positions(plan: RunPlan, *, epoch: int, step: int, end_epoch: int, world: World) -> Iterator[Position]:
    """This worker's shares of all steps from (epoch, step) up to the start of `end_epoch`."""
    for current in range(epoch, end_epoch):
        steps = plan.epoch(current)
        start = step if current == epoch else 0
        for number, share in rank_microbatches(steps, rank=world.rank, world_size=world.size, start_step=start):
            yield Position(current, number, steps.num_steps, steps.num_utterances(number), share)


def packed_rows(config: RunConfig) -> RowShape | None:
    """The shape of training's batches if they are packed."""
    return RowShape.of_config(config.batching, config.features) if config.batching.policy == "packed" else None


class TrainingLoop:
    """Runs a `RunState` over its data.

    Args:
        config: The whole run.
        state: Model, optimizer and progress; `run` moves it on.
        data: What it reads.
        world: All workers; each runs a loop of its own.
        reporter: Hears this worker's events; all workers report the same ones, most with the same values.
        notice: Asked by every worker after the same steps.
    """

    def __init__(
        self,
        config: RunConfig,
        state: RunState,
        data: RunData,
        *,
        world: World,
        reporter: Reporter,
        notice: Notice = str,
    ) -> None:
        self._config = config
        self._training = config.training
        self._state = state
        self._data = data
        self._world = world
        self._reporter = reporter
        self._notice = notice
        self._noticed_at_s: float | None = None
        self._alphabet = Alphabet(config.text.alphabet)
        self._steps_per_epoch = data.plan.nominal_steps_per_epoch
        self._skipped_in_a_row = 0
        self._window = Window()
        self._saved_step = state.progress.global_step or -1
        self._writer = BackgroundWriter()
        self._pending: list[tuple[int, PendingStep]] = []

    def run(self) -> dict[str, Any]:
        """Train to the end of the run or of this job; every worker returns the figures of the last evaluation.

        Raises:
            NonFiniteError: More than `max_nonfinite_steps` steps in a row had no finite loss or gradient.
        """
        loader = self._data.make_loader()
        batches = TimedBatches(loader.load(self._microbatches(), packed_rows(self._config)))
        try:
            try:
                for position in self._positions():
                    self._step(position, batches)
                    self._after_step(position)
            finally:
                self._data.shard_feed.close()  # first: the loader's thread may be waiting for a shard
                loader.close()
            return self._finish()
        finally:
            self._writer.close()  # also when it was interrupted: what is half written is finished

    def _microbatches(self) -> Iterator[list[EncodedUtterance]]:
        """What this worker trains on; the loader reads ahead in its own thread."""
        for position in self._positions():
            self._data.shard_feed.reach(position.epoch, position.step)
            for _, rows in position.microbatches:
                yield self._data.train_source.microbatch(rows.tolist(), position.epoch)

    def _positions(self) -> Iterator[Position]:
        """From where the run stands to where this job ends."""
        progress = self._state.progress
        end_epoch = min(self._training.epochs, self._training.stop_after_epochs or self._training.epochs)
        steps = positions(
            self._data.plan, epoch=progress.epoch, step=progress.step, end_epoch=end_epoch, world=self._world
        )
        if self._training.stop_after_steps is None:
            return steps
        return islice(steps, max(0, self._training.stop_after_steps - progress.global_step))

    def _step(self, position: Position, batches: TimedBatches) -> None:
        global_step = self._state.progress.global_step
        lr = learning_rate(
            global_step + 1,
            peak_lr=self._config.optimizer.lr,
            schedule=self._config.schedule,
            steps_per_epoch=self._steps_per_epoch,
            epochs=self._training.epochs,
        )
        waited_s = batches.wait_s
        pending = self._state.train_step.start(
            batches,
            [number for number, _ in position.microbatches],
            global_step=global_step,
            num_utterances=position.num_utterances,
            lr=lr,
        )
        self._window.wait_s += batches.wait_s - waited_s
        self._window.worker_s += self._state.train_step.worker_s
        sample_is_due = (global_step + 1) % self._training.sample_every_steps == 0
        self._pending.append((global_step + 1, pending if sample_is_due else replace(pending, sample=None)))
        self._state.advance(is_last_of_epoch=position.is_last_of_epoch)
        if self._training.log_utterances:
            self._report_utterances(position)
        progress_is_due = self._is_due(self._training.log_every_steps)
        if progress_is_due or sample_is_due or len(self._pending) >= self._training.read_every_steps:
            self._read()
        if progress_is_due:
            self._report_progress(position, lr)

    def _read(self) -> None:
        """Ask the device for the figures of the steps since the last time; every worker must, after the same step."""
        pending, self._pending = self._pending, []
        results = read_steps([step for _, step in pending], self._world)
        for (global_step, _), result in zip(pending, results, strict=True):
            self._window.add(result)
            self._guard(global_step, result)
            self._report_sample(global_step, result)

    def _after_step(self, position: Position) -> None:
        self._writer.poll()
        training, saving = self._training, self._config.checkpoint
        epochs_done = self._state.progress.epoch if position.is_last_of_epoch else 0
        if training.evaluate_every_steps is not None:
            evaluation_is_due = self._is_due(training.evaluate_every_steps)
        else:
            evaluation_is_due = bool(epochs_done) and epochs_done % training.evaluate_every_epochs == 0
        checkpoint_is_due = (saving.every_steps is not None and self._is_due(saving.every_steps)) or (
            bool(epochs_done) and (epochs_done % saving.every_epochs == 0 or epochs_done in saving.keep_epochs)
        )
        if evaluation_is_due or checkpoint_is_due:
            self._read()  # a run that has lost its way is stopped before it is saved
        is_best = evaluation_is_due and self._evaluate()
        self._save(checkpoint=checkpoint_is_due, best=is_best)
        if not self._pending:  # the host has waited for the device anyway
            self._heed_notice()

    def _heed_notice(self) -> None:
        """Save while there is time, if a machine is about to be taken away: at once, and again until it goes."""
        notice, step = self._notice(), self._state.progress.global_step
        if not notice:
            return
        # Each worker by its own clock, but only the first one writes.
        now_s = time.monotonic()
        if self._noticed_at_s is None:
            message = f"{notice}: a checkpoint is written now, and every {SAVE_AGAIN_S:g} s from now on"
            self._reporter.report("warning", {"message": message, "global_step": step})
        elif now_s - self._noticed_at_s < SAVE_AGAIN_S:
            return
        self._noticed_at_s = now_s
        self._save(checkpoint=self._saved_step != step, best=False)

    def _is_due(self, every_steps: int) -> bool:
        return self._state.progress.global_step % every_steps == 0

    def _guard(self, global_step: int, result: StepResult) -> None:
        """A step without finite loss or gradient was skipped by all workers: say which utterances, have patience."""
        if not result.skipped:
            self._skipped_in_a_row = 0
            return
        self._skipped_in_a_row += 1
        self._state.train_step.forget_exchange_errors()
        names = [self._data.train.ids[row] for row in result.bad_rows] or ["none by its loss: the gradient overflowed"]
        values = {"global_step": global_step, "loss": str(result.loss), "utterances": names}
        self._reporter.report("warning", {"message": "step skipped: loss or gradient is not finite", **values})
        if self._skipped_in_a_row > self._training.max_nonfinite_steps:
            raise NonFiniteError(
                f"{self._skipped_in_a_row} steps in a row had no finite loss or gradient, the last one with utterances "
                f"{', '.join(names[:10])}. Look at them, lower optimizer.lr, or raise training.max_nonfinite_steps"
            )

    def _report_utterances(self, position: Position) -> None:
        mine = {number: [self._data.train.ids[row] for row in rows] for number, rows in position.microbatches}
        shares = self._world.gather(mine)
        merged = {number: ids for share in shares for number, ids in share.items()}
        ids = [merged[number] for number in sorted(merged)]
        self._reporter.report("utterances", {"global_step": self._state.progress.global_step, "microbatches": ids})

    def _report_progress(self, position: Position, lr: float) -> None:
        window, self._window = self._window, Window()
        values = {
            "epoch": position.epoch + 1,
            "epochs": self._training.epochs,
            "step": position.step + 1,
            "steps_in_epoch": position.steps_in_epoch,
            "global_step": self._state.progress.global_step,
            "total_steps": self._steps_per_epoch * self._training.epochs,
            "lr": lr,
            **window.figures(),
            **self._memory(),
            **self._data.shard_feed.figures(),
        }
        self._reporter.report("progress", values)

    def _memory(self) -> dict[str, float]:
        """The most that the device has had in use since the last time; nothing is known of a CPU's."""
        if self._world.device.type != "cuda":
            return {}
        most = torch.cuda.max_memory_allocated(self._world.device)
        torch.cuda.reset_peak_memory_stats(self._world.device)
        return {"memory_gb": most / 1e9}

    def _report_sample(self, global_step: int, result: StepResult) -> None:
        if result.sample is None:
            return
        row, log_probs, length = result.sample
        (ids,) = greedy_decode(log_probs.float(), length.to(log_probs.device), blank=self._alphabet.blank)
        reference, hypothesis = self._data.train.texts[row], self._alphabet.decode(ids)
        errors = count_errors([reference], [hypothesis])
        wer = errors.word_edits / errors.words if errors.words else None
        values = {"reference": reference, "hypothesis": hypothesis, "wer": wer}
        self._reporter.report("sample", {"global_step": global_step, **values})

    def _evaluate(self) -> bool:
        """Evaluate; returns whether the weights are to be kept as the best."""
        if self._data.evaluation is None:
            return False
        started_s = time.monotonic()
        figures = self._evaluate_weights(self._state.forward_deployed).figures()
        if self._training.evaluate_plain_weights:
            plain = self._evaluate_weights(self._state.forward_plain)
            figures |= {"plain_wer": plain.errors.wer, "plain_loss": plain.loss}
        progress = self._state.progress
        figures |= {
            "global_step": progress.global_step,
            "epoch": progress.epoch,
            "took_s": time.monotonic() - started_s,
        }
        wer = float(figures["wer"])
        is_best = wer < (progress.best_wer if progress.best_wer is not None else float("inf"))
        is_kept = is_best and progress.epoch >= self._config.checkpoint.best_from_epoch
        best = wer if is_kept else progress.best_wer
        self._state.progress = replace(progress, metrics=figures, best_wer=best)
        self._reporter.report("evaluation", {**figures, "best_wer": best})
        self._window = Window()  # evaluation is not training time
        return is_kept

    def _evaluate_weights(self, forward: Forward) -> Evaluation:
        manifest, source = self._data.evaluation, self._data.evaluation_source
        assert manifest is not None and source is not None
        shares = plan_evaluation(manifest.durations_s, seconds_per_batch=self._training.evaluation_seconds_per_batch)
        loader = self._data.make_loader()
        try:
            return evaluate(
                forward,
                loader.load(source.batches(shares[self._world.rank :: self._world.size])),
                references=manifest.texts,
                alphabet=self._alphabet,
                world=self._world,
            )
        finally:
            loader.close()

    def _save(self, *, checkpoint: bool, best: bool) -> None:
        """Copy the state now and write it while training goes on."""
        step = self._state.progress.global_step
        if checkpoint:
            self._saved_step = step
        if not self._world.is_first or not (checkpoint or best):
            return
        started_s = time.monotonic()
        self._writer.wait()  # one copy of the state in memory at a time
        snapshot, output = self._state.snapshot(), self._config.output
        if checkpoint:
            self._reporter.report("saving", {"global_step": step})
        stalled_s, written = time.monotonic() - started_s, ""

        def write() -> None:
            nonlocal written
            if best:
                snapshot.write_best(output)
            if checkpoint:
                written = snapshot.write_checkpoint(output, self._config.checkpoint)

        def done() -> None:
            if checkpoint:
                values = {"global_step": step, "uri": written, "stalled_s": stalled_s}
                self._reporter.report("checkpoint", {**values, "took_s": time.monotonic() - started_s})

        self._writer.submit(write, done)
        self._window.leave_out_s(stalled_s)

    def _finish(self) -> dict[str, Any]:
        self._read()
        is_best = False
        if self._state.progress.metrics.get("global_step") != self._state.progress.global_step:
            is_best = self._evaluate()
        progress = self._state.progress
        self._save(checkpoint=self._saved_step != progress.global_step, best=is_best)
        self._writer.wait()
        figures = {
            **progress.metrics,
            "global_step": progress.global_step,
            "epoch": progress.epoch,
            "best_wer": progress.best_wer,
            "finished": progress.epoch >= self._training.epochs,
            "num_parameters": self._state.num_parameters,
        }
        if self._world.is_first:
            bundle = object_store.join(self._config.output, BUNDLE)
            figures["bundle"] = self._state.snapshot().write_bundle(bundle)
        self._reporter.report("end", figures)
        return figures
