"""Transcripts of audio files: `python -m jobs.transcribe BUNDLE FILE [FILE ...]`."""

import argparse
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from jasper_ray.audio.decode import decode_audio
from jasper_ray.errors import AudioError, DataError, StorageError
from jasper_ray.inference.transcriber import Transcriber
from jasper_ray.storage import object_store
from jobs.entry import console, run_job

FILES_AT_ONCE = 64


def transcribe_files(transcriber: Transcriber, files: Sequence[str]) -> list[dict[str, Any]]:
    """One row per file: `file` and either `text`, `duration_s` and `confidence`, or `error`."""
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
        for position, transcript in zip(waveforms, transcriber.transcribe(list(waveforms.values())), strict=True):
            group[position] |= {
                "text": transcript.text,
                "duration_s": transcript.duration_s,
                "confidence": transcript.confidence,
            }
        rows += group
    return rows


def _transcribe(arguments: argparse.Namespace) -> Mapping[str, Any]:
    transcriber = Transcriber.from_bundle(arguments.bundle, device=arguments.device, precision=arguments.precision)
    started_s = time.monotonic()
    rows = transcribe_files(transcriber, arguments.files)
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


def main() -> None:
    """Transcribe audio files; a file that cannot be read is reported, the others are transcribed all the same."""
    parser = argparse.ArgumentParser(prog="python -m jobs.transcribe", description=main.__doc__)
    parser.add_argument("bundle", help="folder of the bundle, local or s3://")
    parser.add_argument("files", nargs="+", metavar="FILE", help="audio files, local or s3://")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--precision", choices=["fp32", "fp16", "bf16"], default="fp32", help="default fp32")
    run_job(partial(_transcribe, parser.parse_args()))


if __name__ == "__main__":
    main()
