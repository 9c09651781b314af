"""OpenAI's realtime API, transcription sessions: `/v1/realtime?intent=transcription`.

Deltas come while somebody speaks, as soon as a word is stable; OpenAI sends them after the item was committed.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, WebSocket

from jasper_ray.decoding.alignment import WordSpan
from serve.errors import ApiError, overloaded
from serve.live_session import Final, LiveSession, Partial, SegmentError, SpeechStarted
from serve.live_socket import Door, LiveSocket, converse
from serve.openai_replies import logprobs
from serve.pcm_stream import PcmStream
from serve.realtime_messages import (
    FORMATS,
    LOGPROBS,
    TRANSCRIPTION,
    Append,
    AudioFormat,
    AudioInput,
    Clear,
    Commit,
    Session,
    SessionUpdate,
    Transcription,
    TurnDetection,
    described_session,
    error_event,
    error_fields,
    event_id_of,
    new_id,
    parse_event,
    server_event,
)
from serve.recognizer import ModelCard, Recognizer
from serve.scheduler import OverloadedError
from serve.segmenter import SegmentRules

LEAST_S = 0.1
"""Less audio is not committed."""

log = logging.getLogger(__name__)


def realtime_routes(recognizer: Recognizer, card: ModelCard, door: Door) -> APIRouter:
    """The route `/v1/realtime`.

    Args:
        recognizer: Takes the waveforms.
        card: The model.
        door: Shared by all live APIs.
    """
    routes = APIRouter()

    @routes.websocket("/v1/realtime")
    async def realtime(websocket: WebSocket) -> None:
        asked = websocket.query_params.get("model")

        async def talk(socket: LiveSocket) -> None:
            if asked not in (None, card.name):
                raise _no_model(asked, card)
            await _Conversation(socket, recognizer.pick(), card, door).run()

        offered = websocket.headers.get("sec-websocket-protocol", "").split(",")
        chosen = "realtime" if "realtime" in [one.strip() for one in offered] else None
        await converse(websocket, door, talk, error_event, subprotocol=chosen)

    return routes


def _no_model(name: str | None, card: ModelCard) -> ApiError:
    return ApiError(
        404, f"The model {name!r} does not exist; there is {card.name!r}", param="model", code="model_not_found"
    )


class _Item:
    """What one commit will be about."""

    def __init__(self) -> None:
        self.id = new_id("item")
        self.words: list[WordSpan] = []
        self.finished_s = 0.0
        """Audio of it that is transcribed already: a long item is cut."""
        self.has_deltas = False


class _Conversation:
    def __init__(self, socket: LiveSocket, recognizer: Recognizer, card: ModelCard, door: Door) -> None:
        self._socket, self._card, self._limits = socket, card, door.limits
        self._id = new_id("sess")
        self._audio = AudioInput(
            format=AudioFormat(), transcription=Transcription(model=card.name), turn_detection=TurnDetection()
        )
        self._include: list[str] = []
        self._session = LiveSession(recognizer, card.sample_rate_hz, self._rules(), timeout_s=self._limits.timeout_s)
        self._stream = self._new_stream()
        self._item = _Item()
        self._previous_id: str | None = None

    async def run(self) -> None:
        await self._socket.send(server_event("session.created", session=self._described()))
        async for message in self._socket.messages():
            try:
                await self._answer(message)
            except ApiError as error:
                await self._socket.send(error_event(error, event_id_of(message)))

    async def _answer(self, message: str | bytes) -> None:
        match parse_event(message):
            case SessionUpdate(session=session):
                self._update(session)
                await self._socket.send(server_event("session.updated", session=self._described()))
            case Append() as append:
                await self._feed(self._stream.feed(append.content()), look=not self._socket.has_backlog)
            case Commit():
                await self._commit()
            case Clear():
                self._stream.flush()
                self._session.drop()
                self._item = _Item()
                await self._socket.send(server_event("input_audio_buffer.cleared"))

    def _update(self, session: Session) -> None:
        asked = session.audio.input if session.audio is not None and session.audio.input is not None else AudioInput()
        if asked.transcription is not None and asked.transcription.model not in (None, self._card.name):
            raise _no_model(asked.transcription.model, self._card)
        said = {name: getattr(asked, name) for name in asked.model_fields_set}
        before = self._audio.format
        self._audio = self._audio.model_copy(update=said)
        if session.include is not None:
            self._include = list(session.include)
        self._session.rules = self._rules()
        if self._audio.format != before:
            self._stream = self._new_stream()

    async def _feed(self, samples: np.ndarray, *, look: bool) -> None:
        try:
            async for event in self._session.feed(samples, look=look):
                match event:
                    case SpeechStarted() if self._detects_turns:
                        await self._say_speech("started", audio_start_ms=round(event.start_s * 1000))
                    case Partial():
                        await self._say_delta(event.new)
                    case Final() if self._detects_turns:
                        await self._say_speech("stopped", audio_end_ms=round(event.end_s * 1000))
                        await self._say_committed()
                        await self._say_final(event)
                        await self._complete()
                    case Final():
                        await self._say_final(event)
        except (OverloadedError, SegmentError) as error:
            await self._fail(error)

    async def _commit(self) -> None:
        await self._feed(self._stream.flush(), look=False)
        if self._session.held_s + self._item.finished_s < LEAST_S:
            text = f"The buffer holds less than {LEAST_S * 1000:g} ms of audio: append more before a commit"
            raise ApiError(400, text, code="input_audio_buffer_commit_empty")
        await self._say_committed()
        try:
            async for event in self._session.finish():
                if isinstance(event, Final):
                    await self._say_final(event)
        except (OverloadedError, SegmentError) as error:
            await self._fail(error)
        else:
            await self._complete()

    async def _say_speech(self, what: str, **fields: int) -> None:
        await self._socket.send(server_event(f"input_audio_buffer.speech_{what}", item_id=self._item.id, **fields))

    async def _say_committed(self) -> None:
        ids = {"item_id": self._item.id, "previous_item_id": self._previous_id}
        await self._socket.send(server_event("input_audio_buffer.committed", **ids))
        content = [{"type": "input_audio", "transcript": None}]
        item = {"id": self._item.id, "object": "realtime.item", "type": "message", "role": "user", "content": content}
        added = {"previous_item_id": self._previous_id, "item": {**item, "status": "completed"}}
        await self._socket.send(server_event("conversation.item.added", **added))

    async def _say_final(self, final: Final) -> None:
        self._item.finished_s += final.transcript.duration_s
        self._item.words += final.transcript.words
        await self._say_delta(final.rest or ())

    async def _say_delta(self, words: Sequence[WordSpan]) -> None:
        if not words:
            return
        text = " ".join(word.word for word in words)
        fields: dict[str, Any] = {"delta": " " + text if self._item.has_deltas else text}
        if LOGPROBS in self._include:
            fields["logprobs"] = logprobs(words, begins=not self._item.has_deltas)
        self._item.has_deltas = True
        await self._say(f"{TRANSCRIPTION}.delta", **fields)

    async def _complete(self) -> None:
        item = self._item
        fields: dict[str, Any] = {
            "transcript": " ".join(word.word for word in item.words),
            "usage": {"type": "duration", "seconds": round(item.finished_s, 3)},
        }
        if LOGPROBS in self._include:
            fields["logprobs"] = logprobs(item.words)
        await self._say(f"{TRANSCRIPTION}.completed", **fields)
        self._next_item()

    async def _fail(self, error: OverloadedError | SegmentError) -> None:
        if isinstance(error, OverloadedError):
            said = overloaded(error)
        else:
            log.error("an item of a live session failed", exc_info=error)
            said = ApiError(500, f"The server failed: {error}", code="internal_error")
        await self._say(f"{TRANSCRIPTION}.failed", error=error_fields(said))
        self._next_item()

    async def _say(self, kind: str, **fields: Any) -> None:
        await self._socket.send(server_event(kind, item_id=self._item.id, content_index=0, **fields))

    def _next_item(self) -> None:
        self._previous_id, self._item = self._item.id, _Item()

    @property
    def _detects_turns(self) -> bool:
        return self._audio.turn_detection is not None

    def _rules(self) -> SegmentRules:
        turns = self._audio.turn_detection
        if turns is None:
            return SegmentRules(None, self._limits.max_segment_s)
        silence_ms = turns.silence_duration_ms
        pause_s = self._limits.pause_s if silence_ms is None else silence_ms / 1000
        return SegmentRules(pause_s, self._limits.max_segment_s)

    def _new_stream(self) -> PcmStream:
        form = self._audio.format or AudioFormat()
        return PcmStream(form.rate_hz, self._card.sample_rate_hz, FORMATS[form.type])

    def _described(self) -> dict[str, Any]:
        return described_session(self._id, self._audio, self._include, self._limits.session_s)
