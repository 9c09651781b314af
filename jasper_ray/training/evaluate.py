"""Word error rate of a model over a set of utterances: exact on any number of workers, each utterance counted once."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from jasper_ray.data.batch import Batch
from jasper_ray.decoding.decoder import GreedyDecoder, TextDecoder
from jasper_ray.model.ctc import ctc_losses
from jasper_ray.text.alphabet import Alphabet
from jasper_ray.text.wer import ErrorCounts, count_errors
from jasper_ray.training.latencies import BatchSeconds
from jasper_ray.training.world import World

Forward = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Observer = Callable[[Batch, Tensor, Tensor], None]
"""Batch, log-probs `(B, T', V)`, lengths `(B,)`."""


@dataclass(frozen=True)
class Evaluation:
    """Figures over all workers; transcripts and seconds of this worker only."""

    errors: ErrorCounts
    loss: float
    """Mean CTC loss per utterance, over those whose transcript fits their frames."""
    num_utterances: int
    num_infeasible: int
    """Utterances with fewer encoder frames than their transcript needs (not in `loss`, but in the errors)."""
    transcripts: dict[int, str]
    """Manifest row to transcript, for the utterances of this worker."""
    batch_seconds: list[BatchSeconds] = field(default_factory=list, compare=False)
    """Of each batch of this worker, in order."""

    def figures(self) -> dict[str, float | int]:
        """Plain values for logs; rates as fractions."""
        return {
            "wer": self.errors.wer,
            "cer": self.errors.cer,
            "loss": self.loss,
            "num_utterances": self.num_utterances,
            "num_words": self.errors.words,
            "num_word_errors": self.errors.word_edits,
        }


@torch.inference_mode()
def evaluate(
    forward: Forward,
    batches: Iterable[Batch],
    *,
    references: Sequence[str],
    alphabet: Alphabet,
    world: World,
    decoder: TextDecoder | None = None,
    observe: Observer | None = None,
) -> Evaluation:
    """Decode and count.

    Args:
        forward: Features `(B, F, T)` and lengths to log-probs `(B, T', V)` and encoder lengths, in evaluation mode.
        batches: This worker's share; over all workers each utterance must come once.
        references: Transcript of every manifest row.
        alphabet: What labels mean.
        world: All workers; each must call this.
        decoder: How; greedily by default.
        observe: Called with every batch of this worker and what the model says of it.

    Source: the counts, not the rates, are summed over workers, so the figure is that of a single worker.
    """
    decoder = GreedyDecoder(alphabet) if decoder is None else decoder
    transcripts: dict[int, str] = {}
    loss_sum, num_feasible = 0.0, 0
    batch_seconds: list[BatchSeconds] = []
    began_s = time.perf_counter()
    for batch in batches:
        came_s = time.perf_counter()
        batch = batch.to(world.device)
        log_probs, lengths = forward(batch.features, batch.feature_lengths)
        if world.device.type == "cuda":
            torch.cuda.synchronize(world.device)
        computed_s = time.perf_counter()
        texts = decoder.texts(log_probs, lengths)
        decoded_s = time.perf_counter()
        batch_seconds.append(BatchSeconds(came_s - began_s, computed_s - came_s, decoded_s - computed_s))
        losses = ctc_losses(log_probs, lengths, batch.labels, batch.label_lengths, blank=alphabet.blank)
        feasible = losses.isfinite()
        loss_sum += float(losses[feasible].double().sum())
        num_feasible += int(feasible.sum())
        transcripts |= dict(zip(batch.indices, texts, strict=True))
        if observe:
            observe(batch, log_probs, lengths)
        began_s = time.perf_counter()
    errors = count_errors([references[row] for row in transcripts], list(transcripts.values()))
    local = [errors.word_edits, errors.words, errors.character_edits, errors.characters, len(transcripts)]
    totals = world.sum(
        torch.tensor([*local, num_feasible, loss_sum], dtype=torch.float64, device=world.device)
    ).tolist()
    counts, feasible_total, loss_total = [round(value) for value in totals[:5]], round(totals[5]), totals[6]
    return Evaluation(
        errors=ErrorCounts(*counts[:4]),
        loss=loss_total / feasible_total if feasible_total else float("inf"),
        num_utterances=counts[4],
        num_infeasible=counts[4] - feasible_total,
        transcripts=transcripts,
        batch_seconds=batch_seconds,
    )
