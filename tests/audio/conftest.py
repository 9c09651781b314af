import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile


@pytest.fixture
def encode() -> Callable[..., bytes]:
    """Waveform -> bytes of an audio file."""

    def write(
        waveform: np.ndarray, sample_rate_hz: int = 16000, container: str = "WAV", subtype: str | None = None
    ) -> bytes:
        file = io.BytesIO()
        soundfile.write(file, waveform, sample_rate_hz, format=container, subtype=subtype)
        return file.getvalue()

    return write


@pytest.fixture(scope="session")
def nvidia_features(nvidia_fixtures: Path) -> dict[str, np.ndarray]:
    """Waveforms and features of NVIDIA's code, by the names in the README of its fixtures."""
    with np.load(nvidia_fixtures / "features_nondali.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}
