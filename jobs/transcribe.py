"""Transcripts of audio files: `python -m jobs.transcribe BUNDLE FILE [FILE ...]`."""

import argparse
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from jasper_ray.config.decoding import DecodingConfig
from jasper_ray.decoding.confidence import read_calibrations
from jasper_ray.errors import ConfigError, DataError
from jasper_ray.inference.files import FILES_AT_ONCE, TranscriptionWork, build_search, transcribe_files
from jasper_ray.inference.transcriber import Transcriber
from jasper_ray.model.bundle import CONFIG_FILE, WEIGHTS_FILE
from jasper_ray.storage import object_store
from jobs.decoding import add_decoding_options, read_decoding
from jobs.entry import console, run_job
from jobs.pieces import add_piece_options, in_pieces, run_pieces, state_of


def _transcribe(arguments: argparse.Namespace) -> Mapping[str, Any]:
    started_s = time.monotonic()
    config = read_decoding(arguments)
    hotwords = _hotwords(arguments.hotword)
    if config.method == "greedy" and (hotwords or arguments.num_best > 1):
        raise ConfigError("--hotword and --num-best need a beam search: --decoding method=beam")
    files = [*arguments.files, *(read_list(arguments.list) if arguments.list else [])]
    if not files:
        raise ConfigError("there is nothing to transcribe: name audio files, or a list of them with --list FILE")
    try:
        if in_pieces(arguments):
            rows = _transcribe_pieces(arguments, files, config, hotwords)
        else:
            rows = _transcribe_here(arguments, files, config, hotwords)
    except ValueError as error:  # a hot word with characters that the model cannot write
        raise ConfigError(str(error)) from error
    if arguments.output:
        object_store.write_bytes(arguments.output, "".join(json.dumps(row) + "\n" for row in rows).encode())
    else:
        for row in rows:
            console.print(
                f"{row['file']}: {row.get('text', row.get('error'))}", markup=False, highlight=False, soft_wrap=True
            )
    failed = [row for row in rows if "error" in row]
    if failed:
        raise DataError(
            f"{len(failed)} of {len(rows)} files have no transcript, first {failed[0]['file']}: {failed[0]['error']}"
        )
    figures = {"audio_s": sum(row["duration_s"] for row in rows), "seconds": time.monotonic() - started_s}
    if arguments.output:
        return {"output": arguments.output, "files": len(rows), **figures}
    return {"transcripts": rows, **figures}


def _transcribe_here(
    arguments: argparse.Namespace, files: Sequence[str], config: DecodingConfig, hotwords: Mapping[str, float]
) -> list[dict[str, Any]]:
    transcriber = Transcriber.from_bundle(arguments.bundle, device=arguments.device, precision=arguments.precision)
    num_processes = min(arguments.processes, len(files))
    search = build_search(arguments.bundle, transcriber, config, num_processes=num_processes)
    try:
        return transcribe_files(transcriber, files, search=search, num_best=arguments.num_best, hotwords=hotwords)
    finally:
        if search is not None:
            search.close()


def _transcribe_pieces(
    arguments: argparse.Namespace, files: Sequence[str], config: DecodingConfig, hotwords: Mapping[str, float]
) -> list[dict[str, Any]]:
    work = TranscriptionWork(
        bundle=object_store.absolute(arguments.bundle),
        decoding=config,
        device=arguments.device,
        precision=arguments.precision,
        num_best=arguments.num_best,
        hotwords=tuple(hotwords.items()),
    )
    places = [object_store.absolute(file) for file in files]
    job = {
        "job": "transcribe",
        "bundle": state_of(arguments.bundle, CONFIG_FILE, WEIGHTS_FILE),
        "files": hashlib.sha256("\n".join(places).encode()).hexdigest(),
        "calibration": repr(read_calibrations(arguments.bundle)),
        "decoding": config.model_dump(),
        "precision": arguments.precision,
        "num_best": arguments.num_best,
        "hotwords": hotwords,
    }
    pieces = [places[start : start + FILES_AT_ONCE] for start in range(0, len(places), FILES_AT_ONCE)]
    results = run_pieces(arguments, work, pieces, job=job, name="transcribe-piece")
    rows = [row for result in results for row in result["files"]]
    return [row | {"file": file} for row, file in zip(rows, files, strict=True)]


def read_list(path: str) -> list[str]:
    """Names of files, one a line; empty lines and those that begin with # count for nothing.

    Raises:
        StorageError: It cannot be read.
    """
    lines = [line.strip() for line in object_store.read_bytes(path).decode("utf-8", "replace").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


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
    parser.add_argument("files", nargs="*", metavar="FILE", help="audio files, local or s3://")
    parser.add_argument("--list", metavar="FILE", help="a text file, local or s3://, with an audio file in each line")
    parser.add_argument("--output", metavar="FILE", help="write a line of JSON per file there, in their order")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--precision", choices=["fp32", "fp16", "bf16"], default="fp32", help="default fp32")
    parser.add_argument(
        "--hotword", action="append", default=[], metavar="PHRASE=WEIGHT", help="make it more likely; may be repeated"
    )
    parser.add_argument("--num-best", type=int, default=1, metavar="N", help="also give the N best (default 1)")
    add_piece_options(parser, threads="unused in this process")
    add_decoding_options(parser)
    run_job(partial(_transcribe, parser.parse_args()))


if __name__ == "__main__":
    main()
