"""vosk-server's WebSocket protocol: exactly one JSON answer to each message of audio.

`/` for vosk's own clients, which have no path, and `/vosk`. Beside vosk's own keys, `config` takes `partial_words`
(times of the words of partial results, and how many of them are stable) and `pause_s` (0: cut at no pause).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, WebSocket
from pydantic import BaseModel, Field, ValidationError

from jasper_ray.decoding.alignment import WordSpan
from serve.errors import ApiError
from serve.live_session import Final, LiveSession, Partial
from serve.live_socket import Door, LiveSocket, converse
from serve.pcm_stream import MAX_RATE_HZ, MIN_RATE_HZ, PcmStream
from serve.recognizer import ModelCard, Recognizer
from serve.segmenter import SegmentRules

DEFAULT_RATE_HZ = 8000
"""vosk-server's own."""
SUBPROTOCOL = "vosk"
"""What browsers offer beside their key: one that offers any expects an answer."""


class VoskConfig(BaseModel):
    """What a client may say about its audio; a key that has no meaning here (vosk's `phrase_list`) is passed over."""

    sample_rate: float | None = Field(None, ge=MIN_RATE_HZ, le=MAX_RATE_HZ)
    words: bool | None = None
    max_alternatives: int | None = Field(None, ge=0)
    partial_words: bool | None = None
    pause_s: float | None = Field(None, ge=0, le=60)


def vosk_routes(recognizer: Recognizer, card: ModelCard, door: Door) -> APIRouter:
    """The routes `/` and `/vosk`.

    Args:
        recognizer: Takes the waveforms.
        card: The model.
        door: Shared by all live APIs.
    """
    routes = APIRouter()

    @routes.websocket("/")
    @routes.websocket("/vosk")
    async def vosk(websocket: WebSocket) -> None:
        async def talk(socket: LiveSocket) -> None:
            await _Conversation(socket, recognizer.pick(), card, door).run()

        offered = websocket.headers.get("sec-websocket-protocol", "").split(",")
        chosen = SUBPROTOCOL if SUBPROTOCOL in [one.strip() for one in offered] else None
        await converse(websocket, door, talk, _described, subprotocol=chosen)

    return routes


def _described(error: ApiError) -> dict[str, object]:
    return {"error": error.detail}


class _Conversation:
    def __init__(self, socket: LiveSocket, recognizer: Recognizer, card: ModelCard, door: Door) -> None:
        self._socket, self._limits, self._model_hz = socket, door.limits, card.sample_rate_hz
        self._config = VoskConfig(sample_rate=DEFAULT_RATE_HZ, words=True, max_alternatives=0, partial_words=False)
        rules = SegmentRules(self._limits.pause_s, self._limits.max_segment_s)
        self._session = LiveSession(recognizer, self._model_hz, rules, timeout_s=self._limits.timeout_s)
        self._stream = PcmStream(DEFAULT_RATE_HZ, self._model_hz)
        self._partial = Partial((), (), ())

    async def run(self) -> None:
        async for message in self._socket.messages():
            if isinstance(message, bytes):
                await self._socket.send(await self._hear(message))
                continue
            asked = _parsed(message)
            if "config" in asked:
                self._configure(asked["config"])
            elif asked.get("eof") or asked.get("reset"):
                await self._socket.send(await self._end())
                if asked.get("eof"):
                    return
            else:
                raise ApiError(400, 'Text messages are {"config": {...}}, {"eof": 1} and {"reset": 1}')

    def _configure(self, config: object) -> None:
        try:
            said = VoskConfig.model_validate(config)
        except ValidationError as error:
            first = error.errors()[0]
            raise ApiError(400, f"config {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        self._config = self._config.model_copy(update=said.model_dump(exclude_none=True))
        if said.sample_rate is not None and int(said.sample_rate) != self._stream.rate_hz:
            self._stream = PcmStream(int(said.sample_rate), self._model_hz)
        if said.pause_s is not None:
            pause_s = max(said.pause_s, 0.1) if said.pause_s else None
            self._session.rules = SegmentRules(pause_s, self._limits.max_segment_s)

    async def _hear(self, audio: bytes) -> Mapping[str, Any]:
        return await self._feed(self._stream.feed(audio), look=not self._socket.has_backlog)

    async def _feed(self, samples: np.ndarray, *, look: bool) -> Mapping[str, Any]:
        finals = []
        async for event in self._session.feed(samples, look=look):
            if isinstance(event, Partial):
                self._partial = event
            elif isinstance(event, Final):
                self._partial = Partial((), (), ())
                finals.append(event)
        if any(final.transcript.words for final in finals):
            return self._result(finals)
        reply: dict[str, Any] = {"partial": self._partial.text}
        if self._config.partial_words:
            words = (*self._partial.stable, *self._partial.tail)
            reply |= {"partial_result": [_word(word) for word in words], "num_stable": len(self._partial.stable)}
        return reply

    async def _end(self) -> Mapping[str, Any]:
        finals = [
            event async for event in self._session.feed(self._stream.flush(), look=False) if isinstance(event, Final)
        ]
        finals += [event async for event in self._session.finish() if isinstance(event, Final)]
        self._partial = Partial((), (), ())
        return self._result(finals)

    def _result(self, finals: Sequence[Final]) -> Mapping[str, Any]:
        words = [word for final in finals for word in final.transcript.words]
        result: dict[str, Any] = {"text": " ".join(word.word for word in words)}
        if self._config.words and words:
            result = {"result": [_word(word) for word in words], **result}
        if not self._config.max_alternatives:
            return result
        confidence = float(np.mean([word.confidence for word in words])) if words else 0.0
        return {"alternatives": [{"confidence": round(confidence, 6), **result}]}


def _word(word: WordSpan) -> dict[str, Any]:
    return {
        "conf": round(word.confidence, 6),
        "end": round(word.end_s, 3),
        "start": round(word.start_s, 3),
        "word": word.word,
    }


def _parsed(message: str) -> dict[str, Any]:
    try:
        asked = json.loads(message)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"A text message is not JSON: {error}; audio is sent in binary messages") from error
    if not isinstance(asked, dict):
        raise ApiError(400, "A text message must be a JSON object")
    return asked
