"""The models that the KServe v2 API shows: ours, and NVIDIA's Triton ensembles by their names and tensors."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jasper_ray.inference.transcriber import Transcript
from jasper_ray.text.alphabet import Alphabet
from serve.errors import ApiError
from serve.kserve_tensors import InferRequest
from serve.openai_replies import text_of
from serve.recognizer import ModelCard, Recognizer
from serve.uploads import Limits, read_waveform, require_duration

ENSEMBLES = ("jasper-ts-trace-ensemble", "jasper-onnx-ensemble", "jasper-tensorrt-ensemble")
MAX_ROWS = 64
"""Utterances in a request."""
ENSEMBLE_ROWS = 8
"""NVIDIA's `max_batch_size`. Their client folds a transcript into that many rows, so its length is a multiple."""
FULL_SCALE_LIMIT = 1e6

Outputs = Mapping[str, tuple[str, np.ndarray]]


@dataclass(frozen=True)
class Tensor:
    """A tensor of a model, without the dimension of the utterances."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class KserveModel:
    """A name, its tensors, and what becomes of them."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    max_rows: int
    waveforms: Callable[[InferRequest], Awaitable[list[np.ndarray]]]
    """`(N,)` float32 per utterance."""
    reply: Callable[[Sequence[Transcript]], Outputs]


def kserve_models(recognizer: Recognizer, card: ModelCard, limits: Limits) -> dict[str, KserveModel]:
    """The models by their names."""

    async def from_samples(request: InferRequest, signal: str, lengths: str, max_rows: int) -> list[np.ndarray]:
        waveforms = _rows(request, signal, lengths, max_rows)
        durations_s = [len(waveform) / card.sample_rate_hz for waveform in waveforms]
        for row, duration_s in enumerate(durations_s):
            longest_s = min(limits.max_duration_s, limits.max_whole_s)
            require_duration(f"row {row} of {signal}", duration_s, longest_s)
        recognizer.admit(sum(durations_s))
        return waveforms

    async def from_files(request: InferRequest) -> list[np.ndarray]:
        files = request.inputs["WAV"].reshape(-1).tolist()
        _require_rows("WAV", len(files), MAX_ROWS)
        rate_hz = card.sample_rate_hz
        return [
            await read_waveform(file, f"row {row}", recognizer=recognizer, sample_rate_hz=rate_hz, limits=limits)
            for row, file in enumerate(files)
        ]

    async def ours(request: InferRequest) -> list[np.ndarray]:
        if request.datatypes.get("WAV") == "BYTES":
            return await from_files(request)
        return await from_samples(request, "AUDIO", "AUDIO_LENGTH", MAX_ROWS)

    async def theirs(request: InferRequest) -> list[np.ndarray]:
        return await from_samples(request, "AUDIO_SIGNAL", "NUM_SAMPLES", ENSEMBLE_ROWS)

    alphabet = Alphabet(card.alphabet)
    inputs = (Tensor("AUDIO", "FP32", (-1,)), Tensor("AUDIO_LENGTH", "INT32", (1,)), Tensor("WAV", "BYTES", (1,)))
    outputs = (Tensor("TRANSCRIPT", "BYTES", (1,)), Tensor("CONFIDENCE", "FP32", (1,)))
    models = [KserveModel(card.name, inputs, outputs, MAX_ROWS, ours, _texts)]
    for name in ENSEMBLES:
        signal, count = Tensor("AUDIO_SIGNAL", "FP16", (-1,)), Tensor("NUM_SAMPLES", "INT32", (1,))
        ids = (Tensor("TRANSCRIPT", "INT32", (-1,)),)
        models.append(
            KserveModel(name, (signal, count), ids, ENSEMBLE_ROWS, theirs, lambda spoken: _label_ids(spoken, alphabet))
        )
    return {model.name: model for model in models}


def _texts(transcripts: Sequence[Transcript]) -> Outputs:
    texts = np.empty((len(transcripts), 1), dtype=object)
    texts[:, 0] = [text_of(transcript).encode() for transcript in transcripts]
    confidences = np.array([[transcript.confidence] for transcript in transcripts], dtype=np.float32)
    return {"TRANSCRIPT": ("BYTES", texts), "CONFIDENCE": ("FP32", confidences)}


def _label_ids(transcripts: Sequence[Transcript], alphabet: Alphabet) -> Outputs:
    """Label ids as NVIDIA's decoder gives them, for a client that merges repeats and drops blanks."""
    rows = []
    for transcript in transcripts:
        row: list[int] = []
        for label in alphabet.encode(text_of(transcript)):
            if row and row[-1] == label:
                row.append(alphabet.blank)
            row.append(label)
        rows.append(row)
    longest = max(max(map(len, rows)), 1)
    width = -(-longest // ENSEMBLE_ROWS) * ENSEMBLE_ROWS
    ids = np.full((len(rows), width), alphabet.blank, dtype=np.int32)
    for row, labels in enumerate(rows):
        ids[row, : len(labels)] = labels
    return {"TRANSCRIPT": ("INT32", ids)}


def _rows(request: InferRequest, signal: str, lengths: str, max_rows: int) -> list[np.ndarray]:
    """Utterances of a padded tensor."""
    if request.datatypes.get(signal) not in ("FP16", "FP32", "FP64"):
        got = ", ".join(f"{name} {datatype}" for name, datatype in request.datatypes.items())
        raise ApiError(400, f"there must be an input {signal} of FP32 (or FP16, FP64), got {got}")
    batch = np.atleast_2d(request.inputs[signal]).astype(np.float32)
    if batch.ndim != 2:
        raise ApiError(400, f"{signal} must have shape [utterances, samples], got {list(batch.shape)}")
    _require_rows(signal, len(batch), max_rows)
    if not np.isfinite(batch).all() or np.abs(batch).max(initial=0) > FULL_SCALE_LIMIT:
        raise ApiError(400, f"{signal} must hold finite samples of full scale 1")
    if lengths not in request.inputs:
        counts = [batch.shape[1]] * len(batch)
    elif "INT" in request.datatypes[lengths]:
        counts = request.inputs[lengths].reshape(-1).tolist()
    else:
        raise ApiError(400, f"{lengths} must be INT32, got {request.datatypes[lengths]}")
    if len(counts) != len(batch) or not all(0 < count <= batch.shape[1] for count in counts):
        raise ApiError(
            400, f"{lengths} must hold a number from 1 to {batch.shape[1]} for each of {len(batch)} rows, got {counts}"
        )
    return [row[:count] for row, count in zip(batch, counts, strict=True)]


def _require_rows(name: str, rows: int, max_rows: int) -> None:
    if not 0 < rows <= max_rows:
        raise ApiError(400, f"{name} must hold 1 to {max_rows} utterances, got {rows}")
