import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from subjects import EchoTranscriber

from jasper_ray.config.decoding import DecodingConfig
from jasper_ray.config.model import BlockConfig, ModelConfig
from jasper_ray.config.speech import FeatureConfig, TextConfig
from jasper_ray.inference.searching import TranscriptSearch
from jasper_ray.inference.transcriber import Transcriber, Transcript
from jasper_ray.model.bundle import BundleConfig, build_model, save_bundle
from serve.errors import ApiError
from serve.recognizer import HangingError, LocalRecognizer
from serve.scheduler import OverloadedError, QueueLimits
from serve.wishes import Wish


def waveforms(lengths: list[int]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(scale=0.1, size=length).astype(np.float32) for length in lengths]


@pytest.fixture(scope="module")
def transcriber(tmp_path_factory: pytest.TempPathFactory) -> Transcriber:
    folder: Path = tmp_path_factory.mktemp("bundle")
    config = BundleConfig(
        features=FeatureConfig(num_mels=16),
        text=TextConfig(alphabet=" abcdefg"),
        model=ModelConfig(
            preset=None, blocks=(BlockConfig(filters=24, kernel=11, stride=2), BlockConfig(filters=24, kernel=9))
        ),
        training={},
    )
    torch.manual_seed(1)
    model = build_model(config.model, config.features, config.text)
    save_bundle(folder, config=config, weights=model.state_dict(), plain_weights=None)
    return Transcriber.from_bundle(str(folder))


def test_together_or_alone_requests_get_the_transcribers_own_answer(transcriber: Transcriber) -> None:
    inputs = waveforms([3000 + 977 * (number % 23) for number in range(60)])
    expected = [transcriber.transcribe([waveform])[0] for waveform in inputs]

    async def all_at_once() -> list[Transcript]:
        recognizer = LocalRecognizer(transcriber)
        results = await asyncio.gather(*(recognizer.transcribe(waveform) for waveform in inputs))
        assert 1 < recognizer.load().num_steps < 60 and recognizer.load().num_failed == 0
        return results

    for result, alone in zip(asyncio.run(all_at_once()), expected, strict=True):
        assert result.text == alone.text
        assert [word.word for word in result.words] == alone.text.split()
        assert [word.start_s for word in result.words] == [word.start_s for word in alone.words]


def test_one_broken_waveform_harms_none_of_its_batch(transcriber: Transcriber) -> None:
    inputs: list[np.ndarray] = waveforms([4000] * 9)
    inputs[4] = np.zeros((3, 4000), np.float32)  # no waveform at all

    async def all_at_once() -> list[Transcript | BaseException]:
        recognizer = LocalRecognizer(transcriber)
        return await asyncio.gather(*(recognizer.transcribe(waveform) for waveform in inputs), return_exceptions=True)

    results = asyncio.run(all_at_once())
    assert [isinstance(result, Exception) for result in results] == [number == 4 for number in range(9)]


def test_gpu_memory_that_does_not_suffice_splits_the_batch() -> None:
    class Small(EchoTranscriber):
        def transcribe(self, waveforms: Sequence[np.ndarray]) -> list[Transcript]:
            if len(waveforms) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().transcribe(waveforms)

    async def scenario() -> None:
        recognizer = LocalRecognizer(Small())
        results = await asyncio.gather(*(recognizer.transcribe(waveform) for waveform in waveforms([16000] * 12)))
        assert {result.text for result in results} == {"16000 samples"}

    asyncio.run(scenario())


def test_a_model_that_hangs_is_noticed_and_its_requests_answered() -> None:
    gate = threading.Event()

    class Hanging(EchoTranscriber):
        def transcribe(self, waveforms: Sequence[np.ndarray]) -> list[Transcript]:
            gate.wait(20)
            return super().transcribe(waveforms)

    async def scenario() -> None:
        recognizer = LocalRecognizer(Hanging(), queue=QueueLimits(timeout_s=0.05))
        recognizer.require_progress()
        with pytest.raises(OverloadedError):
            await recognizer.transcribe(waveforms([100])[0])
        await asyncio.sleep(0.1)
        with pytest.raises(HangingError, match="this replica must be replaced"):
            recognizer.require_progress()
        gate.set()
        assert await asyncio.to_thread(recognizer.close, 5)
        recognizer.require_progress()

    asyncio.run(scenario())


def test_a_check_runs_the_model(transcriber: Transcriber) -> None:
    async def scenario() -> None:
        recognizer = LocalRecognizer(transcriber)
        assert await recognizer.check() > 0
        assert recognizer.load().num_items == 1

    asyncio.run(scenario())


def test_a_request_may_wish_for_a_search_and_others_stay_greedy(transcriber: Transcriber) -> None:
    pytest.importorskip("flashlight", reason="the extra [beam] is not installed")
    config = DecodingConfig(method="beam", lexicon=False)
    search = TranscriptSearch(transcriber.alphabet, config, frame_s=transcriber.frame_s)
    recognizer = LocalRecognizer(transcriber, search=search)
    inputs = waveforms([16000, 24000])

    async def both() -> list[Transcript]:
        plain = recognizer.transcribe(inputs[0])
        searched = recognizer.search(inputs[1], Wish(num_best=4, hotwords={"bad": 50.0}))
        return list(await asyncio.gather(plain, searched))

    plain, searched = asyncio.run(both())
    assert plain.text == transcriber.transcribe([inputs[0]])[0].text and plain.alternatives == ()
    assert "bad" in searched.text.split() and len(searched.alternatives) == 4
    assert searched.alternatives[0].text == searched.text
    assert [word.word for word in searched.words] in ([], searched.text.split())
    recognizer.close()


def test_without_a_search_a_wish_is_refused(transcriber: Transcriber) -> None:
    recognizer = LocalRecognizer(transcriber)
    with pytest.raises(ApiError, match="this service has no beam search"):
        asyncio.run(recognizer.search(waveforms([4000])[0], Wish()))
    recognizer.close()
