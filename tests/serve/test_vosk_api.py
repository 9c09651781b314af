import asyncio
import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import websockets
from subjects import CARD, LIMITS, ToneTranscriber, listening, pcm16, tones

from jasper_ray.inference.transcriber import Transcript
from serve.access import digest
from serve.http_app import build_api
from serve.live_socket import LiveLimits
from serve.recognizer import LocalRecognizer

WORDS = ["one", "two", "three", "four"]


@contextmanager
def server(transcriber: Any = None, keys: tuple[str, ...] = (), **live: Any) -> Iterator[str]:
    recognizer = LocalRecognizer(transcriber or ToneTranscriber())
    api = build_api(recognizer, CARD, LIMITS, live=LiveLimits(**live), key_digests=keys)
    with listening(api) as address:
        yield f"ws://{address}"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with server() as url:
        yield url


async def as_vosks_client(url: str, audio: bytes, config: dict[str, Any], piece: int = 6400) -> list[dict[str, Any]]:
    """Pieces of 0.2 s, an answer to each, then eof: what all clients of vosk-server do."""
    async with websockets.connect(url) as socket:
        await socket.send(json.dumps({"config": config}))
        replies = []
        for start in range(0, len(audio), piece):
            await socket.send(audio[start : start + piece])
            replies.append(json.loads(await asyncio.wait_for(socket.recv(), 20)))
        await socket.send('{"eof" : 1}')
        replies.append(json.loads(await asyncio.wait_for(socket.recv(), 20)))
        with pytest.raises(websockets.ConnectionClosedOK):
            await asyncio.wait_for(socket.recv(), 20)
        return replies


async def all_of(socket: Any) -> list[dict[str, Any]]:
    """What comes until the end."""
    said = []
    with contextlib.suppress(websockets.ConnectionClosed):
        async for message in socket:
            said.append(json.loads(message))
    return said


def spoken(url: str, said: list[str | float], **config: Any) -> list[dict[str, Any]]:
    rate_hz = int(config.get("sample_rate", 8000))
    return asyncio.run(as_vosks_client(url, pcm16(tones(said, rate_hz)), config, rate_hz // 5 * 2))


@pytest.mark.parametrize("path", ["", "/", "/vosk"])
def test_each_piece_has_one_answer_and_the_words_come_meanwhile(url: str, path: str) -> None:
    *partials, last = spoken(url + path, [*WORDS], sample_rate=16000)
    assert last["text"] == " ".join(WORDS)
    assert [word["word"] for word in last["result"]] == WORDS
    assert set(last["result"][0]) == {"conf", "start", "end", "word"}
    assert all(set(partial) == {"partial"} for partial in partials)
    assert len({partial["partial"] for partial in partials}) >= 4 and partials[0] == {"partial": ""}


@pytest.mark.parametrize("rate_hz", [8000, 16000, 44100])
def test_the_rate_is_what_the_client_says_and_vosks_own_otherwise(url: str, rate_hz: int) -> None:
    config = {} if rate_hz == 8000 else {"sample_rate": rate_hz}
    audio = pcm16(tones([*WORDS], rate_hz))
    assert asyncio.run(as_vosks_client(url, audio, config))[-1]["text"] == " ".join(WORDS)


def test_a_pause_gives_a_result_before_the_end(url: str) -> None:
    replies = spoken(url, ["one", 2.0, "two", 2.0, "three"], sample_rate=16000)
    results = [reply for reply in replies if "text" in reply]
    assert [result["text"] for result in results] == ["one", "two", "three"]
    assert results[1]["result"][0]["start"] == pytest.approx(2.8, abs=0.05)
    (only,) = [r for r in spoken(url, ["one", 2.0, "two", 2.0, "three"], sample_rate=16000, pause_s=0) if "text" in r]
    assert only["text"] == "one two three"


def test_options_of_the_replies(url: str) -> None:
    assert spoken(url, ["one"], sample_rate=16000, words=0)[-1] == {"text": "one"}
    (alternative,) = spoken(url, ["one"], sample_rate=16000, max_alternatives=3)[-1]["alternatives"]
    assert alternative["text"] == "one" and alternative["confidence"] == pytest.approx(0.9)
    partial = spoken(url, [*WORDS], sample_rate=16000, partial_words=True)[-2]
    assert partial["num_stable"] >= 1 and partial["partial_result"][0]["word"] == "one"
    assert spoken(url, [0.5], sample_rate=16000)[-1] == {"text": ""}


def test_a_reset_ends_an_utterance_and_the_session_goes_on(url: str) -> None:
    async def scenario() -> None:
        async with websockets.connect(url) as socket:
            await socket.send('{"config": {"sample_rate": 16000}}')
            for word in ("five", "six"):
                await socket.send(pcm16(tones([word])))
                await socket.recv()
                await socket.send('{"reset": 1}')
                assert json.loads(await socket.recv())["text"] == word

    asyncio.run(scenario())


async def refused(url: str, *messages: str | bytes) -> tuple[str, int]:
    """What is said to messages that are wrong, and the code of the close."""
    async with websockets.connect(url) as socket:
        for message in messages:
            await socket.send(message)
        said = json.loads(await asyncio.wait_for(socket.recv(), 20))
        with pytest.raises(websockets.ConnectionClosed):
            await asyncio.wait_for(socket.recv(), 20)
        return str(said["error"]), int(socket.close_code or 0)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("no json", "is not JSON"),
        ("[1]", "must be a JSON object"),
        ("{}", "Text messages are"),
        ('{"config": {"sample_rate": 12}}', "sample_rate"),
        ('{"config": 3}', "config"),
        ("[" * 10_000, "is not JSON"),
    ],
)
def test_what_is_wrong_is_said_before_the_session_ends(url: str, message: str, says: str) -> None:
    error, code = asyncio.run(refused(url, message))
    assert says in error and code == 1008


def test_one_session_too_many_is_sent_away_and_a_vanished_one_leaves_room() -> None:
    async def scenario(url: str) -> None:
        first = await websockets.connect(url)
        await first.send(pcm16(tones(["one"], 8000)))
        await first.recv()
        error, code = await refused(url)
        assert "1 live sessions are open already" in error and code == 1013
        first.transport.abort()
        for _ in range(100):
            try:
                assert (await as_vosks_client(url, pcm16(tones(["two"], 8000)), {}))[-1]["text"] == "two"
                return
            except (AssertionError, KeyError, websockets.ConnectionClosed):
                await asyncio.sleep(0.05)
        raise AssertionError("the vanished client's place is still taken")

    with server(max_sessions=1) as url:
        asyncio.run(scenario(url))


def test_sessions_end_when_nothing_comes_and_after_their_time() -> None:
    with server(idle_s=0.2) as url:
        assert asyncio.run(refused(url)) == ("Nothing came for 0.2 s: the session ends", 1008)

    async def talkative(url: str) -> tuple[str, int]:
        said: list[dict[str, Any]] = []
        async with websockets.connect(url) as socket:
            with contextlib.suppress(websockets.ConnectionClosed):
                for _ in range(1000):
                    await socket.send(bytes(320))
                    said.append(json.loads(await socket.recv()))
                    await asyncio.sleep(0.02)
            said += await all_of(socket)
            return said[-1]["error"], int(socket.close_code or 0)

    with server(session_s=0.5) as url:
        assert asyncio.run(talkative(url)) == ("A session lasts at most 0.5 s: begin a new one", 1001)


def test_who_sends_faster_than_is_transcribed_is_told_so() -> None:
    async def flood(url: str) -> str:
        async with websockets.connect(url) as socket:
            speech = pcm16(tones(["one"] * 80, 8000))
            assert len(speech) > 500_000
            with contextlib.suppress(websockets.ConnectionClosed):
                for _ in range(20):
                    await socket.send(speech)
            return str((await all_of(socket))[-1]["error"])

    class Slow(ToneTranscriber):
        def transcribe(self, waveforms: Sequence[np.ndarray]) -> list[Transcript]:
            time.sleep(0.5)
            return super().transcribe(waveforms)

    with server(Slow(), max_backlog_bytes=1_000_000) as url:
        assert "have not been transcribed yet, the limit is 1000000" in asyncio.run(flood(url))


def test_keys_are_asked_for() -> None:
    async def with_headers(url: str, **options: Any) -> str:
        async with websockets.connect(url, **options) as socket:
            await socket.send(pcm16(tones(["one"], 8000)))
            await socket.recv()
            await socket.send('{"eof": 1}')
            return str(json.loads(await socket.recv())["text"])

    with server(keys=(digest("one"),)) as url:
        with pytest.raises(websockets.InvalidStatus, match="403"):
            asyncio.run(with_headers(url))
        key = {"Authorization": "Bearer one"}
        assert asyncio.run(with_headers(url, additional_headers=key)) == "one"
