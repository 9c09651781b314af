"""The options of jobs that decode: which search, with which language model."""

import argparse
import os
from pathlib import Path

from jasper_ray.config.decoding import DecodingConfig
from jasper_ray.config.files import load_config
from jasper_ray.errors import ConfigError


def add_decoding_options(parser: argparse.ArgumentParser) -> None:
    """Add `--decoding` and `--processes`."""
    parser.add_argument(
        "--decoding",
        action="append",
        default=[],
        metavar="FILE|KEY=VALUE",
        help="how to decode: a YAML file as `jobs.language_model tune` writes it, or a knob such as method=beam, "
        "language_model=FOLDER, lm_weight=0.8; may be given several times (default: greedy)",
    )
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, help="processes of a beam search (default: one per core)"
    )


def read_decoding(arguments: argparse.Namespace) -> DecodingConfig:
    """The decoding that the options ask for.

    Raises:
        ConfigError: A file or knob is wrong, or there are two files.
    """
    files = [item for item in arguments.decoding if "=" not in item]
    knobs = [item for item in arguments.decoding if "=" in item]
    if len(files) > 1:
        raise ConfigError(f"--decoding takes one file, got {' and '.join(files)}")
    return load_config(DecodingConfig, Path(files[0]) if files else None, knobs, environ=os.environ)
