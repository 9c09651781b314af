"""A bundle for other runtimes: `python -m jobs.export BUNDLE OUT --format onnx|torchscript|tensorrt|triton`."""

import argparse
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jasper_ray.audio.decode import decode_audio
from jasper_ray.audio.filterbank import Filterbank
from jasper_ray.errors import ConfigError
from jasper_ray.inference.engine import Engine
from jasper_ray.inference.export import (
    Exported,
    ExportPrecision,
    export_onnx,
    export_tensorrt,
    export_torchscript,
    parity,
)
from jasper_ray.inference.triton_repository import write_triton_repository
from jasper_ray.model.bundle import Bundle, load_bundle
from jasper_ray.model.ctc import greedy_decode
from jobs.entry import console, run_job

FILES = {"onnx": "model.onnx", "torchscript": "model.pt", "tensorrt": "model.plan"}
SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".aiff")
NOISE_S = (3.0, 7.1)


def _export(arguments: argparse.Namespace) -> Mapping[str, Any]:
    bundle, folder = load_bundle(arguments.bundle), Path(arguments.out)
    waveforms = _speech(arguments.audio, bundle.config.features.sample_rate_hz, arguments.max_files)
    folder.mkdir(parents=True, exist_ok=True)
    precision: ExportPrecision = arguments.precision
    if arguments.format == "triton":
        exported, target = write_triton_repository(bundle, folder, precision), folder
    else:
        target = folder / FILES[arguments.format]
        write: Callable[[Bundle, Path, ExportPrecision], Exported] = {
            "onnx": export_onnx,
            "torchscript": export_torchscript,
            "tensorrt": export_tensorrt,
        }[arguments.format]
        exported = write(bundle, target, precision)
    report = {
        "format": arguments.format,
        "precision": precision,
        "bundle": arguments.bundle,
        "written": str(target),
        "compared_on": "noise" if not arguments.audio else "speech",
        **_compared(bundle, exported, waveforms),
    }
    if arguments.format == "tensorrt":
        report["compared"] = "the ONNX file that the plan was built from, not the plan"
    beside = folder.parent if arguments.format == "triton" else folder  # a repository holds models only
    (beside / f"{folder.name}-parity.json").write_text(json.dumps(report, indent=1) + "\n")
    console.print(f"{target}: {report['labels_agreeing']:.2%} of the frames have the bundle's best label")
    return report


def _compared(bundle: Bundle, exported: Exported, waveforms: list[np.ndarray]) -> dict[str, Any]:
    engine, filterbank = Engine(bundle, method="direct"), Filterbank(bundle.config.features)
    utterances = [filterbank(torch.from_numpy(waveform)) for waveform in waveforms]

    def texts(run: Exported) -> list[str]:
        outputs = [run(one[None], torch.tensor([one.shape[1]])) for one in utterances]
        blank = bundle.alphabet.blank
        return [bundle.alphabet.decode(greedy_decode(*output, blank=blank)[0]) for output in outputs]

    same = sum(ours == theirs for ours, theirs in zip(texts(engine.log_probs), texts(exported), strict=True))
    return {
        "utterances": len(utterances),
        "transcripts_equal": same,
        **parity(exported, engine.log_probs, utterances),
    }


def _speech(paths: list[str], rate_hz: int, max_files: int) -> list[np.ndarray]:
    """The audio to compare on; noise where none was named.

    Raises:
        ConfigError: A path holds no audio.
    """
    if not paths:
        rng = np.random.default_rng(0)
        return [rng.normal(scale=0.1, size=round(seconds * rate_hz)).astype(np.float32) for seconds in NOISE_S]
    found: list[Path] = []
    for path in map(Path, paths):
        here = sorted(one for one in path.rglob("*") if one.suffix in SUFFIXES) if path.is_dir() else [path]
        if not here or not here[0].exists():
            raise ConfigError(f"--audio {path}: there is no audio file ({', '.join(SUFFIXES)})")
        found += here
    return [decode_audio(path.read_bytes(), sample_rate_hz=rate_hz) for path in found[:max_files]]


def main() -> None:
    """Write a bundle's model for another runtime, and how far it is from the bundle on speech."""
    parser = argparse.ArgumentParser(prog="python -m jobs.export", description=main.__doc__)
    parser.add_argument("bundle", help="folder of the bundle, local or s3://")
    parser.add_argument("out", help="local folder to write; with triton the model repository")
    parser.add_argument("--format", choices=[*FILES, "triton"], default="onnx", help="(default onnx)")
    parser.add_argument("--precision", choices=["fp32", "fp16", "int8"], default="fp32", help="int8: onnx and triton")
    parser.add_argument("--audio", nargs="+", default=[], metavar="PATH", help="speech to compare on: files or folders")
    parser.add_argument("--max-files", type=int, default=20, help="of them, at most so many (default 20)")
    run_job(partial(_export, parser.parse_args()))


if __name__ == "__main__":
    main()
