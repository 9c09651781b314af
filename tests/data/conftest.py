import io
from collections.abc import Callable

import numpy as np
import pytest
import soundfile

from jasper_ray.audio.augment import UtteranceDraws
from jasper_ray.data.source import EncodedUtterance

MakeUtterance = Callable[..., EncodedUtterance]


@pytest.fixture
def make_utterance() -> MakeUtterance:
    """An utterance of noise that swells and fades, with as many labels as its index tells."""

    def make(
        index: int = 0,
        *,
        num_samples: int = 16_000,
        sample_rate_hz: int = 16_000,
        container: str = "FLAC",
        channels: int = 1,
        draws: UtteranceDraws | None = None,
    ) -> EncodedUtterance:
        random = np.random.default_rng(index)
        swell = np.sin(np.linspace(0.1, 3, num_samples))[:, None]
        waveform = random.standard_normal((num_samples, channels)) * 0.1 * swell
        file = io.BytesIO()
        soundfile.write(file, waveform, sample_rate_hz, format=container)
        labels = tuple(range(1, 1 + index % 5))
        return EncodedUtterance(index, f"utt-{index}", file.getvalue(), sample_rate_hz, num_samples, labels, draws)

    return make
