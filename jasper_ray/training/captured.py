"""Forward and backward passes of micro-batches as CUDA graphs: one launch instead of some 2,000.

Without them a fast GPU waits for Python. A graph is recorded for each shape, the second time that it comes, and reads
its micro-batch from memory of its own; utterances and labels are padded so that packed micro-batches share few shapes.
All graphs share the memory that they compute in.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from jasper_ray.data.batch import Batch
from jasper_ray.model.ctc_triton import MAX_LABELS

UTTERANCES, LABELS, LONGEST = 16, 64, 512
"""Numbers of utterances, of labels and of frames of the longest are raised to multiples of these."""
MAX_GRAPHS = 16

log = logging.getLogger(__name__)

Pass = Callable[[Batch, Tensor], tuple[Tensor, Tensor]]
"""Runs a micro-batch on the device forward and backward, its loss times a scalar on the device; gives the `(B,)` losses
and the log-probs."""


class Recorder(Protocol):
    """Records what a function does on a device; the result repeats it. Raises RuntimeError where that cannot be."""

    def __call__(self, run: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """What `run` gave, in memory that each repetition writes anew, and the repetition."""
        ...


class CudaRecorder:
    """Records CUDA graphs that share their memory."""

    def __init__(self) -> None:
        self._pool: Any = None  # a handle

    def __call__(self, run: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        """As `Recorder`; nothing is computed yet."""
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        torch.cuda.empty_cache()  # what eager passes leave behind is of no use to the graph
        graph = torch.cuda.CUDAGraph()
        # Loaders pin memory in other threads meanwhile, which a stricter mode would forbid them.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            result = run()
        return result, graph.replay


class Shape(NamedTuple):
    """What micro-batches of one graph have in common."""

    features: tuple[int, ...]
    utterances: int
    labels: int
    longest: int | None
    """Of packed rows."""

    @classmethod
    def of(cls, batch: Batch) -> "Shape":
        """The shape that holds a micro-batch."""
        (utterances, labels), longest = batch.labels.shape, None
        if batch.places is not None:
            assert batch.longest is not None
            utterances, longest = _raised(utterances, UTTERANCES), _raised(batch.longest, LONGEST)
        room = labels if labels > MAX_LABELS else min(_raised(labels, LABELS), MAX_LABELS)
        return cls(tuple(batch.features.shape), utterances, room, longest)

    @property
    def can_be_recorded(self) -> bool:
        """Whether our kernels compute the loss: torch's, which longer transcripts go to, asks for lengths."""
        return self.labels <= MAX_LABELS


def _raised(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


@dataclass
class _Entry:
    batch: Batch
    """Whose memory is read."""
    weight: Tensor
    losses: Tensor | None = None
    log_probs: Tensor | None = None
    replay: Callable[[], None] | None = None

    def fill(self, given: Batch, weight: float) -> None:
        """Take over a micro-batch; what it does not fill is utterances of no frames and no labels, whose loss is 0."""
        mine = self.batch
        mine.features.copy_(given.features, non_blocking=True)
        _fill(mine.feature_lengths, given.feature_lengths)
        _fill(mine.label_lengths, given.label_lengths)
        mine.labels.zero_()
        mine.labels[: given.labels.shape[0], : given.labels.shape[1]].copy_(given.labels, non_blocking=True)
        if mine.places is not None and given.places is not None:
            _fill(mine.places, given.places)
        self.weight.fill_(weight)


def _fill(mine: Tensor, given: Tensor) -> None:
    mine[len(given) :].zero_()
    mine[: len(given)].copy_(given, non_blocking=True)


class CapturedPasses:
    """Runs micro-batches by graphs where it can, and else as they are.

    Args:
        run: What is done with a micro-batch.
        before_replay: Sets what must differ between replays and what `run` sets itself where it is not recorded.
        around: Called before and after a recording, so that nothing that is kept elsewhere becomes part of it.
        record: Records what `run` does.
    """

    def __init__(
        self, run: Pass, *, before_replay: Callable[[], None], around: Callable[[], None], record: Recorder
    ) -> None:
        self._run = run
        self._before_replay = before_replay
        self._around = around
        self._record = record
        self._entries: dict[Shape, _Entry] = {}
        self._gave_up = False

    @property
    def num_graphs(self) -> int:
        """Graphs that have been recorded."""
        return sum(entry.replay is not None for entry in self._entries.values())

    def __call__(self, given: Batch, weight: float, device: torch.device) -> tuple[Tensor, Tensor]:
        """Forward and backward of a micro-batch, wherever it lies.

        Returns:
            `(B,)` losses, and the log-probs of the first utterance, `(1, T, V)`.
        """
        num = len(given.label_lengths)
        shape = Shape.of(given)
        entry = self._entries.get(shape)
        has_room = not self._gave_up and len(self._entries) < MAX_GRAPHS
        if entry is None and not (has_room and shape.can_be_recorded):
            losses, log_probs = self._run(given.to(device), torch.tensor(weight).to(device, non_blocking=True))
            return losses[:num], log_probs[:1]
        if entry is None:
            entry = self._entries[shape] = _new_entry(shape, given, device)
            entry.fill(given, weight)
            # As it is: kernels are compiled and libraries choose theirs, which a recording forbids.
            losses, log_probs = self._run(entry.batch, entry.weight)
            return losses[:num].clone(), log_probs[:1].clone()
        entry.fill(given, weight)
        if entry.replay is None and not self._gave_up:
            self._capture(entry)
        if entry.replay is None:
            losses, log_probs = self._run(entry.batch, entry.weight)
        else:
            self._before_replay()
            entry.replay()
            assert entry.losses is not None and entry.log_probs is not None
            losses, log_probs = entry.losses, entry.log_probs
        return losses[:num].clone(), log_probs[:1].clone()  # the next replay writes into the same memory

    def _capture(self, entry: _Entry) -> None:
        self._around()
        try:
            (entry.losses, entry.log_probs), entry.replay = self._record(lambda: self._run(entry.batch, entry.weight))
        except RuntimeError as error:  # too little memory, too
            self._gave_up = True
            log.warning(
                "training goes on without CUDA graphs, as with training.cuda_graphs=false: a micro-batch of shape %s "
                "could not be recorded (%s)",
                tuple(entry.batch.features.shape),
                str(error).splitlines()[0],
            )
        self._around()


def _new_entry(shape: Shape, given: Batch, device: torch.device) -> _Entry:
    batch = replace(
        given,
        features=torch.zeros(shape.features, device=device),
        feature_lengths=torch.zeros(shape.utterances, dtype=torch.int64, device=device),
        labels=torch.zeros(shape.utterances, shape.labels, dtype=torch.int64, device=device),
        label_lengths=torch.zeros(shape.utterances, dtype=torch.int64, device=device),
        places=None if given.places is None else torch.zeros(shape.utterances, 2, dtype=torch.int64, device=device),
        longest=shape.longest if given.places is not None else given.longest,
    )
    return _Entry(batch, torch.zeros((), device=device))
