import asyncio
import random

import numpy as np
import pytest
from subjects import Echo

from jasper_ray.inference.transcriber import Transcript
from serve.canary import CanaryRecognizer
from serve.scheduler import OverloadedError


class Named(Echo):
    def __init__(self, name: str, *, full: bool = False) -> None:
        super().__init__()
        self.name, self.full = name, full

    async def transcribe(self, waveform: np.ndarray) -> Transcript:
        return Transcript(self.name, 1.0, 1.0)

    def admit(self, duration_s: float) -> None:
        if self.full:
            raise OverloadedError("full", 1.0)


def answers(recognizer: CanaryRecognizer, count: int) -> list[str]:
    async def ask() -> list[str]:
        return [(await recognizer.transcribe(np.zeros(9, np.float32))).text for _ in range(count)]

    return asyncio.run(ask())


@pytest.mark.parametrize(("weight", "least", "most"), [(0.0, 0, 0), (0.1, 60, 140), (1.0, 1000, 1000)])
def test_the_canary_answers_its_share(weight: float, least: int, most: int) -> None:
    recognizer = CanaryRecognizer(Named("old"), Named("new"), weight, random.Random(3))
    assert least <= answers(recognizer, 1000).count("new") <= most


def test_the_share_changes_while_requests_come() -> None:
    recognizer = CanaryRecognizer(Named("old"), Named("new"), 0.0, random.Random(3))
    assert answers(recognizer, 5) == ["old"] * 5
    recognizer.weight = 1.0
    assert answers(recognizer, 5) == ["new"] * 5


def test_who_is_picked_stays_the_same() -> None:
    recognizer = CanaryRecognizer(Named("old"), Named("new"), 0.5, random.Random(3))
    picked = recognizer.pick()
    assert {asyncio.run(picked.transcribe(np.zeros(9, np.float32))).text for _ in range(9)} == {picked.name}  # type: ignore[attr-defined]


def test_a_full_canary_refuses_only_while_it_is_asked() -> None:
    recognizer = CanaryRecognizer(Named("old"), Named("new", full=True), 0.5)
    with pytest.raises(OverloadedError):
        recognizer.admit(1.0)
    recognizer.weight = 0.0
    recognizer.admit(1.0)
    assert asyncio.run(recognizer.check()) > 0
