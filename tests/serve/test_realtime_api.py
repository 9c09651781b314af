import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import numpy as np
import openai
import pytest
import websockets
from subjects import CARD, LIMITS, ToneTranscriber, listening, pcm16, tones

from jasper_ray.inference.transcriber import Transcript
from serve.access import digest
from serve.http_app import build_api
from serve.live_socket import LiveLimits
from serve.recognizer import LocalRecognizer

TRANSCRIPTION = "conversation.item.input_audio_transcription"
KEY = digest("sk-1")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    api = build_api(LocalRecognizer(ToneTranscriber()), CARD, LIMITS, key_digests=(KEY,))
    with listening(api) as address:
        yield address


def update(**given: Any) -> dict[str, Any]:
    """What the SDK's users pass to session.update."""
    return {"type": "transcription", "audio": {"input": {"transcription": {"model": "jasper"}, **given}}}


def talk(address: str, scenario: Callable[[Any], Awaitable[Any]], key: str = "sk-1") -> Any:
    """Run a scenario over a connection of OpenAI's own SDK."""

    async def connected() -> Any:
        client = openai.AsyncOpenAI(base_url=f"http://{address}/v1", api_key=key)
        async with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
            async with asyncio.timeout(60):
                assert (await connection.recv()).type == "session.created"
                return await scenario(connection)

    return asyncio.run(connected())


async def append(connection: Any, samples: np.ndarray, pause_s: float = 0.0) -> None:
    """In pieces of 0.1 s."""
    for start in range(0, len(samples), 2400):
        audio = base64.b64encode(pcm16(samples[start : start + 2400])).decode()
        await connection.input_audio_buffer.append(audio=audio)
        await asyncio.sleep(pause_s)


async def until(connection: Any, kind: str, count: int = 1) -> list[Any]:
    events = []
    while count:
        events.append(await connection.recv())
        count -= events[-1].type == kind
    return events


def test_a_committed_buffer_becomes_an_item_with_its_transcript(address: str) -> None:
    async def scenario(connection: Any) -> None:
        await connection.session.update(session=update(turn_detection=None))
        updated = await connection.recv()
        assert updated.type == "session.updated" and updated.session.audio.input.turn_detection is None
        for words in (["one", "two", "three", "four", "five"], ["six"]):
            await append(connection, tones(words, 24000), pause_s=0.03)
            await connection.input_audio_buffer.commit()
            events = await until(connection, f"{TRANSCRIPTION}.completed")
            deltas = [event for event in events if event.type == f"{TRANSCRIPTION}.delta"]
            assert "".join(delta.delta for delta in deltas) == events[-1].transcript == " ".join(words)
            assert len(deltas) > 1 or len(words) == 1  # some words were stable before the commit
            kinds = [event.type for event in events]
            assert kinds.index("input_audio_buffer.committed") < kinds.index("conversation.item.added")
            assert {event.item_id for event in events if hasattr(event, "item_id")} == {events[-1].item_id}
            assert events[-1].usage.type == "duration" and events[-1].usage.seconds > 0.5

    talk(address, scenario)


def test_turns_are_detected_by_their_pauses(address: str) -> None:
    async def scenario(connection: Any) -> None:
        turns = {"type": "server_vad", "silence_duration_ms": 600}
        await connection.session.update(session=update(turn_detection=turns))
        await append(connection, tones(["one", "two", 1.5, "three", 1.5], 24000))
        events = await until(connection, f"{TRANSCRIPTION}.completed", 2)
        done = [event for event in events if event.type == f"{TRANSCRIPTION}.completed"]
        assert [event.transcript for event in done] == ["one two", "three"]
        committed = [event for event in events if event.type == "input_audio_buffer.committed"]
        assert [event.item_id for event in committed] == [event.item_id for event in done]
        assert committed[1].previous_item_id == committed[0].item_id
        starts = [event.audio_start_ms for event in events if event.type == "input_audio_buffer.speech_started"]
        assert starts[0] == 0 and 1300 < starts[1] < 2700

    talk(address, scenario)


def test_a_long_item_is_cut_inside_and_stays_one() -> None:
    words = [["one", "two", "three"][number % 3] for number in range(24)]

    async def scenario(connection: Any) -> None:
        await connection.session.update(session=update(turn_detection=None))
        await append(connection, tones(words, 24000))
        await connection.input_audio_buffer.commit()
        events = await until(connection, f"{TRANSCRIPTION}.completed")
        deltas = [event.delta for event in events if event.type == f"{TRANSCRIPTION}.delta"]
        assert "".join(deltas) == events[-1].transcript == " ".join(words)

    live = LiveLimits(max_segment_s=4.0)
    with listening(build_api(LocalRecognizer(ToneTranscriber()), CARD, LIMITS, live=live)) as address:
        talk(address, scenario)


def test_a_cleared_buffer_is_forgotten_and_logprobs_come_when_asked_for(address: str) -> None:
    async def scenario(connection: Any) -> None:
        session = update(turn_detection=None, format={"type": "audio/pcmu"})
        include = ["item.input_audio_transcription.logprobs"]
        await connection.session.update(session={**session, "include": include})
        session = update(turn_detection=None, format={"type": "audio/pcm", "rate": 24000})
        await connection.session.update(session=session)
        await append(connection, tones(["nine"], 24000))
        await connection.input_audio_buffer.clear()
        await append(connection, tones(["one", "two"], 24000))
        await connection.input_audio_buffer.commit()
        done = (await until(connection, f"{TRANSCRIPTION}.completed"))[-1]
        assert done.transcript == "".join(token.token for token in done.logprobs) == "one two"

    talk(address, scenario)


@pytest.mark.parametrize(
    ("event", "code", "param", "says"),
    [
        ("{", "invalid_json", None, "not JSON"),
        ("[]", "invalid_value", "type", "JSON object"),
        ({"type": "response.create"}, "invalid_value", "type", "not supported: use session.update"),
        ({"type": "input_audio_buffer.append", "audio": "*"}, "invalid_value", "audio", "not base64"),
        ({"type": "input_audio_buffer.append"}, "invalid_value", "audio", "Field required"),
        ({"type": "input_audio_buffer.commit"}, "input_audio_buffer_commit_empty", None, "less than 100 ms"),
        ({"type": "session.update", "session": {"type": "realtime"}}, "invalid_value", "session.type", "transcription"),
        (
            {"type": "session.update", "session": update(transcription={"model": "whisper-1"})},
            "model_not_found",
            "model",
            "there is 'jasper'",
        ),
        (
            {"type": "session.update", "session": update(format={"type": "audio/pcm", "rate": 1})},
            "invalid_value",
            "session.audio.input.format.rate",
            "greater than",
        ),
    ],
)
def test_a_mistake_is_an_error_event_and_the_session_goes_on(
    address: str, event: Any, code: str, param: str | None, says: str
) -> None:
    async def scenario() -> None:
        headers = {"Authorization": "Bearer sk-1"}
        async with websockets.connect(f"ws://{address}/v1/realtime", additional_headers=headers) as socket:
            await socket.recv()
            named = event if isinstance(event, str) else json.dumps({**event, "event_id": "mine"})
            await socket.send(named)
            error = json.loads(await asyncio.wait_for(socket.recv(), 20))
            assert error["type"] == "error"
            assert (error["error"]["code"], error["error"]["param"]) == (code, param)
            assert says in error["error"]["message"]
            assert error["error"]["event_id"] == (None if isinstance(event, str) else "mine")
            await socket.send('{"type": "input_audio_buffer.clear"}')
            assert json.loads(await asyncio.wait_for(socket.recv(), 20))["type"] == "input_audio_buffer.cleared"

    asyncio.run(scenario())


def test_a_wrong_key_and_a_wrong_model_are_refused(address: str) -> None:
    async def nothing(connection: Any) -> None:
        raise AssertionError("let in")

    with pytest.raises(websockets.InvalidStatus, match="403"):
        talk(address, nothing, key="sk-2")

    async def other_model() -> None:
        protocols = ["realtime", "openai-insecure-api-key.sk-1"]  # as browsers do
        url = f"ws://{address}/v1/realtime?model=whisper-1"
        async with websockets.connect(url, subprotocols=protocols) as socket:  # type: ignore[arg-type]
            assert socket.subprotocol == "realtime"
            assert json.loads(await socket.recv())["error"]["code"] == "model_not_found"

    asyncio.run(other_model())


def test_a_failing_model_fails_its_item_only() -> None:
    class Failing(ToneTranscriber):
        def transcribe(self, waveforms: Sequence[np.ndarray]) -> list[Transcript]:
            if any(len(waveform) > 2.5 * 16000 for waveform in waveforms):
                raise RuntimeError("no")
            return super().transcribe(waveforms)

    async def scenario(connection: Any) -> None:
        await connection.session.update(session=update(turn_detection=None))
        for words, kind in ((["one"] * 6, "failed"), (["two"], "completed")):
            await append(connection, tones(words, 24000))
            await connection.input_audio_buffer.commit()
            event = (await until(connection, f"{TRANSCRIPTION}.{kind}"))[-1]
        assert event.transcript == "two"

    with listening(build_api(LocalRecognizer(Failing()), CARD, LIMITS)) as address:
        talk(address, scenario)
