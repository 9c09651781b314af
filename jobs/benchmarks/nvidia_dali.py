"""NVIDIA's way to features: the graph of their Jasper's DALI pipeline (2021), on the CPU.

Files are read by DALI, decoded and played at a random speed by its resampler at the default quality of 50, dithered by
random normals, and turned into normalised log-mel features. Two steps are left out, which makes it faster than NVIDIA's
own: trimming of silence and SpecAugment.
"""

import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RATE_HZ = 16000.0
DITHER = 1e-5


def has_dali() -> bool:
    """Whether DALI is installed."""
    return importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None


class NvidiaGraph:
    """Batches of features `(B, F, T)` and the numbers of their files, for as long as they are asked for.

    Args:
        files: What is read.
        batch_size: Utterances of a batch.
        num_threads: DALI's threads.
        seed: Of DALI's draws.
        ahead: Whether it works ahead, as in training. Its processor time would then be counted to whoever runs next.
    """

    def __init__(self, files: list[Path], *, batch_size: int, num_threads: int, seed: int, ahead: bool) -> None:
        from nvidia.dali import fn, types
        from nvidia.dali.pipeline import Pipeline

        self._pipeline = Pipeline(
            batch_size=batch_size,
            num_threads=num_threads,
            device_id=None,
            seed=seed,
            prefetch_queue_depth=2 if ahead else 1,
            exec_pipelined=ahead,
            exec_async=ahead,
            exec_dynamic=ahead,
        )
        self._num_batches = -(-len(files) // batch_size)
        with self._pipeline:
            encoded, number = fn.readers.file(
                files=[str(file) for file in files],
                labels=list(range(len(files))),
                shuffle_after_epoch=True,
                pad_last_batch=False,
                name="file_reader",
            )
            coefficient = fn.random.uniform(range=[0.85, 1.15])
            audio, _ = fn.decoders.audio(
                encoded, sample_rate=coefficient * RATE_HZ, dtype=types.FLOAT, downmix=True, quality=50.0
            )
            audio = audio + fn.random.normal(audio) * DITHER
            audio = fn.preemphasis_filter(audio, preemph_coeff=0.97)
            spectrum = fn.spectrogram(audio, nfft=512, window_length=320, window_step=160)
            mel = fn.mel_filter_bank(spectrum, sample_rate=RATE_HZ, nfilter=64, normalize=True)
            log_mel = fn.to_decibels(mel, multiplier=math.log(10), reference=1.0, cutoff_db=math.log(1e-20))
            features = fn.pad(fn.normalize(log_mel, axes=[1]), axes=[1], fill_value=0, align=[16])
            self._pipeline.set_outputs(features, number)
        self._pipeline.build()

    def epoch(self) -> Iterator[tuple[Any, list[int]]]:
        """As many batches as hold every file once."""
        for _ in range(self._num_batches):
            features, numbers = self._pipeline.run()
            yield features.as_tensor(), numbers.as_array().ravel().tolist()
