"""Transcripts of audio files, local or on a store: a row per file, whatever happens to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jasper_ray.audio.decode import decode_audio
from jasper_ray.config.decoding import DecodingConfig
from jasper_ray.decoding.confidence import read_calibrations
from jasper_ray.errors import AudioError, ConfigError, StorageError
from jasper_ray.inference.engine import Precision
from jasper_ray.inference.searching import TranscriptSearch
from jasper_ray.inference.transcriber import Transcriber
from jasper_ray.storage import object_store

FILES_AT_ONCE = 64


def transcribe_files(
    transcriber: Transcriber,
    files: Sequence[str],
    *,
    search: TranscriptSearch | None = None,
    num_best: int = 1,
    hotwords: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """One row per file: `file` and either `text`, `duration_s`, `confidence` and `words`, or `error`."""
    rows: list[dict[str, Any]] = []
    for start in range(0, len(files), FILES_AT_ONCE):
        group: list[dict[str, Any]] = [{"file": file} for file in files[start : start + FILES_AT_ONCE]]
        waveforms = {}
        for position, row in enumerate(group):
            try:
                encoded = object_store.read_bytes(row["file"])
                waveforms[position] = decode_audio(encoded, sample_rate_hz=transcriber.sample_rate_hz)
            except (AudioError, StorageError) as error:
                row["error"] = str(error)
        transcripts = transcriber.transcribe(list(waveforms.values()), with_log_probs=search is not None)
        if search is not None:
            transcripts = search.transcripts(transcripts, num_best=num_best, hotwords=hotwords)
        for position, transcript in zip(waveforms, transcripts, strict=True):
            group[position] |= {
                "text": transcript.text,
                "duration_s": transcript.duration_s,
                "confidence": transcript.confidence,
                "words": [
                    [w.word, round(w.start_s, 3), round(w.end_s, 3), round(w.confidence, 4)] for w in transcript.words
                ],
            }
            if transcript.alternatives:
                group[position]["alternatives"] = [[one.text, one.score] for one in transcript.alternatives]
        rows += group
    return rows


@dataclass(frozen=True)
class TranscriptionWork:
    """How files are transcribed; called with a few of them at a time."""

    bundle: str
    """Folder, local or on a store."""
    decoding: DecodingConfig
    device: str = "cpu"
    precision: Precision = "fp32"
    num_best: int = 1
    hotwords: tuple[tuple[str, float], ...] = ()

    def __call__(self, piece: tuple[int, Sequence[str]]) -> tuple[int, dict[str, Any]]:
        """Number and result (`files`: rows of `transcribe_files`) of a piece; the model is kept for the next one.

        Raises:
            ConfigError: A hot word has characters that the model cannot write; names it.
        """
        number, files = piece
        transcriber, search = _recogniser(self)
        hotwords = dict(self.hotwords)
        try:
            rows = transcribe_files(transcriber, files, search=search, num_best=self.num_best, hotwords=hotwords)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return number, {"files": rows}


@lru_cache(maxsize=1)
def _recogniser(work: TranscriptionWork) -> tuple[Transcriber, TranscriptSearch | None]:
    transcriber = Transcriber.from_bundle(work.bundle, device=work.device, precision=work.precision)
    return transcriber, build_search(work.bundle, transcriber, work.decoding)


def build_search(
    bundle: str, transcriber: Transcriber, config: DecodingConfig, *, num_processes: int = 1
) -> TranscriptSearch | None:
    """The search that a config asks for, or none if it decodes greedily.

    Raises:
        ConfigError: The parts of the search do not go together, or a package is missing.
        DataError: There is no language model where the config says.
    """
    if config.method == "greedy":
        return None
    return TranscriptSearch(
        transcriber.alphabet,
        config,
        frame_s=transcriber.frame_s,
        calibration=read_calibrations(bundle).get("beam"),
        num_processes=num_processes,
    )
