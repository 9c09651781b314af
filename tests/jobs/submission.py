"""What tests are told of jobs that were submitted to a cluster."""

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Submit = Callable[..., subprocess.CompletedProcess[str]]
"""`submit(name, *arguments of jobs.train)` waits for the job's end."""


@dataclass(frozen=True)
class Submitted:
    """A training job that has ended, and its folder with `train`, `evaluation`, `evaluation-corpus` and `run`."""

    result: subprocess.CompletedProcess[str]
    folder: Path
