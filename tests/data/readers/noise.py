import io

import numpy as np
import soundfile


def noise(seed: int) -> bytes:
    """A WAV of a tenth of a second."""
    file = io.BytesIO()
    soundfile.write(file, np.random.default_rng(seed).uniform(-0.1, 0.1, 1600), 16_000, format="WAV")
    return file.getvalue()
