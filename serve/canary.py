"""A new model beside the one in use, for a share of the requests."""

import random
from collections.abc import AsyncIterator

import numpy as np

from jasper_ray.inference.long_audio import Piece, Source
from jasper_ray.inference.transcriber import Transcript
from serve.recognizer import Recognizer
from serve.wishes import Wish


class CanaryRecognizer:
    """Two recognisers; each request, and each live session as a whole, is one's or the other's.

    Args:
        stable: Answers all other requests.
        canary: Answers the share `weight`.
        weight: From 0 to 1; may be changed at any time.
        draw: Numbers in [0, 1).
    """

    def __init__(
        self, stable: Recognizer, canary: Recognizer, weight: float, draw: random.Random | None = None
    ) -> None:
        self._stable, self._canary = stable, canary
        self.weight = weight
        self._draw = draw or random.Random()

    def pick(self) -> Recognizer:
        """Whose the next request is."""
        return self._canary if self._draw.random() < self.weight else self._stable

    async def transcribe(self, waveform: np.ndarray) -> Transcript:
        """By one of the two."""
        return await self.pick().transcribe(waveform)

    async def search(self, waveform: np.ndarray, wish: Wish) -> Transcript:
        """By one of the two."""
        return await self.pick().search(waveform, wish)

    def stream(self, source: Source) -> AsyncIterator[Piece]:
        """By one of the two."""
        return self.pick().stream(source)

    def admit(self, duration_s: float) -> None:
        """Whether both have room: who will be asked is not known yet."""
        self._stable.admit(duration_s)
        if self.weight > 0:
            self._canary.admit(duration_s)

    async def check(self) -> float:
        """Both; the longer time."""
        took_s = await self._stable.check()
        return max(took_s, await self._canary.check()) if self.weight > 0 else took_s
