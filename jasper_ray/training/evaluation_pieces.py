"""An evaluation in pieces: each is a dataset of its own, and their counts add up to the figures of the whole."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jasper_ray.config.data import DataConfig, LoaderConfig
from jasper_ray.config.decoding import DecodingConfig
from jasper_ray.data.loaders import make_loader
from jasper_ray.data.manifest import Manifest
from jasper_ray.data.plan import plan_evaluation
from jasper_ray.data.source import UtteranceSource
from jasper_ray.decoding.alignment import WordSpan
from jasper_ray.decoding.decoder import TextDecoder, build_decoder
from jasper_ray.decoding.words import WordKeeper
from jasper_ray.model.bundle import Bundle, load_bundle
from jasper_ray.storage import object_store
from jasper_ray.storage.shard_cache import ShardCache
from jasper_ray.text.wer import ErrorCounts
from jasper_ray.training.evaluate import Evaluation, Observer, evaluate
from jasper_ray.training.latencies import BatchSeconds
from jasper_ray.training.log_probs_file import LogProbsTable
from jasper_ray.training.world import World


@dataclass(frozen=True)
class EvaluationWork:
    """What is the same for all pieces."""

    bundle: str
    """Folder, local or on a store."""
    loader: LoaderConfig
    decoding: DecodingConfig
    device: str = "cpu"
    plain_weights: bool = False
    seconds_per_batch: float = 160.0
    with_words: bool = False
    """Whether words have times and confidences in the results."""
    log_probs: str | None = None
    """Folder for a file of log-probabilities per piece, `piece-NUMBER.parquet`; local or on a store."""

    def __call__(self, piece: tuple[int, Manifest]) -> tuple[int, dict[str, Any]]:
        """Number and result of a piece; the model of a process's last call is kept for the next.

        The result, as JSON: `transcripts` and `words` in the piece's order, `errors` (word edits, words, character
        edits, characters), `loss` (mean), `num_feasible`, `batch_seconds`.
        """
        number, manifest = piece
        bundle, decoder = _recogniser(self)
        frame_s = bundle.config.features.hop_s * bundle.config.model.total_stride
        keeper = WordKeeper(decoder, bundle.alphabet, frame_s=frame_s)
        table = LogProbsTable([*bundle.alphabet.labels, ""], frame_s)
        found = evaluate_bundle(
            bundle,
            manifest,
            loader=self.loader,
            device=torch.device(self.device),
            seconds_per_batch=self.seconds_per_batch,
            decoder=keeper if self.with_words else decoder,
            observe=table.observer(manifest.ids) if self.log_probs else None,
        )
        if self.log_probs:
            table.write(object_store.join(self.log_probs, f"piece-{number:06d}.parquet"))
        words = dict(zip(found.transcripts, keeper.words, strict=True)) if self.with_words else {}
        errors = found.errors
        return number, {
            "transcripts": [found.transcripts[row] for row in range(len(manifest))],
            "words": [[_as_json(word) for word in words[row]] for row in range(len(words))],
            "errors": [errors.word_edits, errors.words, errors.character_edits, errors.characters],
            "loss": found.loss if found.num_infeasible < len(manifest) else 0.0,
            "num_feasible": len(manifest) - found.num_infeasible,
            "batch_seconds": [list(astuple(seconds)) for seconds in found.batch_seconds],
        }


@lru_cache(maxsize=1)
def _recogniser(work: EvaluationWork) -> tuple[Bundle, TextDecoder]:
    bundle = load_bundle(work.bundle, device=work.device, plain_weights=work.plain_weights)
    # One process: pieces are what is done at the same time, and a node that is lost leaves no children behind.
    return bundle, build_decoder(work.decoding, bundle.alphabet)


def evaluate_bundle(
    bundle: Bundle,
    manifest: Manifest,
    *,
    loader: LoaderConfig,
    device: torch.device,
    seconds_per_batch: float,
    decoder: TextDecoder | None = None,
    observe: Observer | None = None,
) -> Evaluation:
    """Decode every utterance of a manifest with a bundle's deployed weights, greedily by default; see `evaluate`."""
    data = DataConfig()
    cache = ShardCache(Path(data.cache_dir).expanduser(), int(data.cache_max_gb * 1e9))
    source = UtteranceSource(manifest, bundle.alphabet, bundle.config.features, None, 0, cache)
    batches = plan_evaluation(manifest.durations_s, seconds_per_batch=seconds_per_batch)
    features = make_loader(bundle.config.features, loader)
    try:
        return evaluate(
            bundle.model,
            features.load(source.batches(batches)),
            references=manifest.texts,
            alphabet=bundle.alphabet,
            world=World(device=device),
            decoder=decoder,
            observe=observe,
        )
    finally:
        features.close()


def cut_by_shard(manifest: Manifest, *, seconds: float) -> list[np.ndarray]:
    """Rows of each piece: of one shard, and of at most so many seconds of audio unless one utterance is longer.

    A node then fetches only the shards of its own pieces.
    """
    order = np.lexsort((manifest.rows, manifest.shard_index))
    pieces: list[list[int]] = []
    shard, filled_s = -1, 0.0
    for row in order.tolist():
        duration_s = float(manifest.durations_s[row])
        if manifest.shard_index[row] != shard or filled_s + duration_s > seconds:
            pieces.append([])
            shard, filled_s = int(manifest.shard_index[row]), 0.0
        pieces[-1].append(row)
        filled_s += duration_s
    return [np.array(rows) for rows in pieces]


def alone(manifest: Manifest, rows: np.ndarray) -> Manifest:
    """A piece of a manifest that brings nothing of the others along."""
    part = manifest.select(rows)
    used, positions = np.unique(part.shard_index, return_inverse=True)
    return Manifest(
        ids=part.ids,
        texts=part.texts,
        speakers=part.speakers,
        durations_s=part.durations_s,
        num_samples=part.num_samples,
        sample_rates_hz=part.sample_rates_hz,
        shards=[part.shards[shard] for shard in used],
        shard_index=positions.astype(np.int64),
        rows=part.rows,
        shard_checksums=[part.checksum(int(shard)) for shard in used],
    )


def joined(
    pieces: Sequence[np.ndarray], results: Iterable[Mapping[str, Any]]
) -> tuple[Evaluation, list[list[WordSpan]]]:
    """The evaluation that all pieces are together, and the words of every row if the results have them."""
    errors, loss_sum, num_feasible = ErrorCounts(), 0.0, 0
    transcripts: dict[int, str] = {}
    words: dict[int, list[WordSpan]] = {}
    batch_seconds: list[BatchSeconds] = []
    for rows, result in zip(pieces, results, strict=True):
        transcripts |= dict(zip(rows.tolist(), result["transcripts"], strict=True))
        if result["words"]:
            spans = [[WordSpan(*word) for word in row] for row in result["words"]]
            words |= dict(zip(rows.tolist(), spans, strict=True))
        errors += ErrorCounts(*result["errors"])
        loss_sum += result["loss"] * result["num_feasible"]
        num_feasible += result["num_feasible"]
        batch_seconds += [BatchSeconds(*seconds) for seconds in result.get("batch_seconds", [])]
    evaluation = Evaluation(
        errors=errors,
        loss=loss_sum / num_feasible if num_feasible else float("inf"),
        num_utterances=len(transcripts),
        num_infeasible=len(transcripts) - num_feasible,
        transcripts={row: transcripts[row] for row in sorted(transcripts)},
        batch_seconds=batch_seconds,
    )
    return evaluation, [words[row] for row in sorted(words)]


def _as_json(word: WordSpan) -> list[Any]:
    return [word.word, word.start_s, word.end_s, word.confidence, word.entropy]
