"""Transcripts of audio files: `python -m jobs.transcribe BUNDLE FILE [FILE ...]`."""

import argparse
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from jasper_ray.audio.decode import decode_audio
from jasper_ray.decoding.confidence import read_calibrations
from jasper_ray.errors import AudioError, ConfigError, DataError, StorageError
from jasper_ray.inference.searching import TranscriptSearch
from jasper_ray.inference.transcriber import Transcriber
from jasper_ray.storage import object_store
from jobs.decoding import add_decoding_options, read_decoding
from jobs.entry import console, run_job

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


def _transcribe(arguments: argparse.Namespace) -> Mapping[str, Any]:
    transcriber = Transcriber.from_bundle(arguments.bundle, device=arguments.device, precision=arguments.precision)
    started_s = time.monotonic()
    config = read_decoding(arguments)
    hotwords = _hotwords(arguments.hotword)
    if config.method == "greedy" and (hotwords or arguments.num_best > 1):
        raise ConfigError("--hotword and --num-best need a beam search: --decoding method=beam")
    search = None
    if config.method == "beam":
        search = TranscriptSearch(
            transcriber.alphabet,
            config,
            frame_s=transcriber.frame_s,
            calibration=read_calibrations(arguments.bundle).get("beam"),
            num_processes=min(arguments.processes, len(arguments.files)),
        )
    try:
        rows = transcribe_files(
            transcriber, arguments.files, search=search, num_best=arguments.num_best, hotwords=hotwords
        )
    except ValueError as error:  # a hot word with characters that the model cannot write
        raise ConfigError(str(error)) from error
    finally:
        if search is not None:
            search.close()
    for row in rows:
        console.print(
            f"{row['file']}: {row.get('text', row.get('error'))}", markup=False, highlight=False, soft_wrap=True
        )
    failed = [row for row in rows if "error" in row]
    if failed:
        raise DataError(
            f"{len(failed)} of {len(rows)} files have no transcript, first {failed[0]['file']}: {failed[0]['error']}"
        )
    audio_s = sum(row["duration_s"] for row in rows)
    return {"transcripts": rows, "audio_s": audio_s, "seconds": time.monotonic() - started_s}


def _hotwords(items: Sequence[str]) -> dict[str, float]:
    found = {}
    for item in items:
        phrase, _, weight = item.rpartition("=")
        try:
            found[phrase] = float(weight)
        except ValueError:
            raise ConfigError(f"--hotword {item!r}: must be PHRASE=WEIGHT, for example 'jasper=5'") from None
    return found


def main() -> None:
    """Transcribe audio files; a file that cannot be read is reported, the others are transcribed all the same."""
    parser = argparse.ArgumentParser(prog="python -m jobs.transcribe", description=main.__doc__)
    parser.add_argument("bundle", help="folder of the bundle, local or s3://")
    parser.add_argument("files", nargs="+", metavar="FILE", help="audio files, local or s3://")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--precision", choices=["fp32", "fp16", "bf16"], default="fp32", help="default fp32")
    parser.add_argument(
        "--hotword", action="append", default=[], metavar="PHRASE=WEIGHT", help="make it more likely; may be repeated"
    )
    parser.add_argument("--num-best", type=int, default=1, metavar="N", help="also give the N best (default 1)")
    add_decoding_options(parser)
    run_job(partial(_transcribe, parser.parse_args()))


if __name__ == "__main__":
    main()
