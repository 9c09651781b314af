"""The memory probe: the largest micro-batch that the plan can hold is tried before training begins.

Then a device that is too small says so in the first minute, with the key to change, and not when the longest utterances
happen to come.
"""

import logging
import math
import time
from dataclasses import dataclass
from typing import Any

import torch

from jasper_ray.config.schema import RunConfig
from jasper_ray.data.batch import Batch
from jasper_ray.data.manifest import Manifest
from jasper_ray.data.packing import RowShape
from jasper_ray.errors import CapacityError
from jasper_ray.training.step import TrainStep

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorstMicrobatch:
    """The largest micro-batch of any epoch, as shapes."""

    num_utterances: int
    num_rows: int
    row_frames: int
    utterance_frames: int
    num_labels: int
    """Of the longest transcript, which every utterance is given."""

    @property
    def words(self) -> str:
        """What it is."""
        packed = "" if self.num_rows == self.num_utterances else f"{self.num_utterances} utterances in "
        return f"{packed}{self.num_rows} rows of {self.row_frames} frames"


def worst_microbatch(config: RunConfig, train: Manifest) -> WorstMicrobatch:
    """What the policy allows for these utterances at the slowest speed."""
    batching, features = config.batching, config.features
    slowest = min(config.augment.speed_min, 1.0)
    longest_s = float(train.durations_s.max()) / slowest
    multiple = features.pad_to_multiple
    longest_frames = math.ceil(longest_s / features.hop_s) + 1
    num_labels = max(len(text) for text in train.texts)
    if batching.policy == "packed":
        shape = RowShape.of_config(batching, features)
        per_row = shape.num_frames // (int(train.durations_s.mean() / features.hop_s) + shape.gap_frames)
        utterances = shape.num_rows * max(1, per_row)
        longest_frames = min(longest_frames, shape.num_frames)
        return WorstMicrobatch(utterances, shape.num_rows, shape.num_frames, longest_frames, num_labels)
    utterances, row_s = min(batching.utterances_per_microbatch, len(train)), longest_s
    if batching.policy == "seconds":
        utterances = max(1, min(utterances, int(batching.seconds_per_microbatch / longest_s)))
        row_s = max(longest_s, min(batching.seconds_per_microbatch / utterances, longest_s * 1.5))
    row_frames = -(-(math.ceil(row_s / features.hop_s) + 1) // multiple) * multiple
    return WorstMicrobatch(utterances, utterances, row_frames, longest_frames, num_labels)


def worst_batch(worst: WorstMicrobatch, *, num_mels: int, num_classes: int, align_frames: int) -> Batch:
    """Such a micro-batch, of zeros: no random draw is made for it."""
    per_row = worst.num_utterances // worst.num_rows
    slot = worst.row_frames // per_row // align_frames * align_frames
    places = [(row, part * slot) for row in range(worst.num_rows) for part in range(per_row)]
    labels = torch.arange(worst.num_labels) % num_classes
    return Batch(
        features=torch.zeros(worst.num_rows, num_mels, worst.row_frames),
        feature_lengths=torch.full((worst.num_utterances,), min(worst.utterance_frames, slot)),
        labels=labels.repeat(worst.num_utterances, 1),
        label_lengths=torch.full((worst.num_utterances,), worst.num_labels),
        indices=tuple(range(worst.num_utterances)),
        audio_s=0.0,
        places=torch.tensor(places) if per_row > 1 else None,
        longest=worst.utterance_frames,
    )


def probe_memory(step: TrainStep, batch: Batch, worst: WorstMicrobatch, config: RunConfig) -> dict[str, Any]:
    """Forward and backward of the largest micro-batch, with room for what the optimizer needs; all is as before after.

    Returns:
        What was tried, seconds, and on a GPU the most memory in use.

    Raises:
        CapacityError: It does not fit; says which key to halve.
    """
    started_s = time.monotonic()
    try:
        step.probe(batch)
    except torch.OutOfMemoryError as error:
        raise CapacityError(f"{_advice(worst, config)} ({str(error).splitlines()[0]})") from error
    tried: dict[str, Any] = {"microbatch": worst.words, "took_s": time.monotonic() - started_s}
    if step.device.type == "cuda":
        tried["memory_gb"] = torch.cuda.max_memory_allocated(step.device) / 1e9
    return tried


def _advice(worst: WorstMicrobatch, config: RunConfig) -> str:
    batching, training = config.batching, config.training
    key = {
        "fixed": f"batching.utterances_per_microbatch={batching.utterances_per_microbatch}",
        "seconds": f"batching.seconds_per_microbatch={batching.seconds_per_microbatch:g}",
        "packed": f"batching.rows_per_microbatch={batching.rows_per_microbatch}",
    }[batching.policy]
    others = [] if training.activation_checkpointing else ["set training.activation_checkpointing=true"]
    others += ["set training.precision=bf16"] if training.precision in ("fp32", "tf32") else []
    ways = "".join(f", or {other}" for other in others)
    return (
        f"the largest micro-batch of the plan, {worst.words}, does not fit into the memory of the device: halve {key} "
        f"and double batching.microbatches_per_step={batching.microbatches_per_step}, which leaves the number of a "
        f"step's utterances as it is{ways}. training.memory_probe=false skips this test"
    )
