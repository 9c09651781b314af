"""A WebSocket that cannot wedge the service: bounded numbers, bounded buffers, deadlines, nothing left behind."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fastapi import WebSocket
from starlette.websockets import WebSocketDisconnect, WebSocketState

from serve.errors import ApiError, overloaded
from serve.scheduler import ClosedError, OverloadedError

SEND_TIMEOUT_S = 30.0
"""A client that does not read for so long is gone."""
NORMAL, GOING_AWAY, REFUSED, TOO_BIG, FAILED, TRY_LATER = 1000, 1001, 1008, 1009, 1011, 1013
MAX_REASON_BYTES = 123

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LiveLimits:
    """What live sessions may take."""

    max_sessions: int = 32
    """At a time; 0 turns live transcription off."""
    max_backlog_bytes: int = 16 * 2**20
    """Of messages that have come and are not transcribed yet, per session."""
    idle_s: float = 60.0
    """A session without a message for so long ends."""
    session_s: float = 3600.0
    """A session ends after this time."""
    pause_s: float = 0.8
    """A pause so long ends an utterance."""
    max_segment_s: float = 30.0
    """An utterance without a pause is cut after so long."""
    timeout_s: float = 60.0
    """How long a finished utterance may wait for a service that is busy."""


class Door:
    """Counts the sessions that are open."""

    def __init__(self, limits: LiveLimits) -> None:
        self.limits = limits
        self.num_open = 0

    def has_room(self) -> bool:
        """Whether one more may come in."""
        return self.num_open < self.limits.max_sessions


class LiveSocket:
    """Messages of one client, read ahead within a bound."""

    def __init__(self, websocket: WebSocket, limits: LiveLimits) -> None:
        self._websocket, self._limits = websocket, limits
        self._queue: asyncio.Queue[str | bytes] = asyncio.Queue()
        self._num_bytes = 0

    @property
    def has_backlog(self) -> bool:
        """Whether more has come already."""
        return not self._queue.empty()

    async def messages(self) -> AsyncIterator[str | bytes]:
        """What the client sends, in order.

        Raises:
            ApiError: It sent nothing for too long.
        """
        while True:
            try:
                # Not `wait_for`, which loses a cancellation that comes with a message.
                async with asyncio.timeout(self._limits.idle_s):
                    message = await self._queue.get()
            except TimeoutError:
                text = f"Nothing came for {self._limits.idle_s:g} s: the session ends"
                raise ApiError(408, text, code="session_idle") from None
            self._num_bytes -= len(message)
            yield message

    async def send(self, data: Mapping[str, Any]) -> None:
        """Send JSON."""
        async with asyncio.timeout(SEND_TIMEOUT_S):
            await self._websocket.send_text(json.dumps(data))

    async def read(self) -> None:
        """Take messages until the client is gone.

        Raises:
            ApiError: They come faster than they are transcribed.
        """
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            content: str | bytes = message.get("text") or message.get("bytes") or b""
            if self._num_bytes and self._num_bytes + len(content) > self._limits.max_backlog_bytes:
                text = (
                    f"{self._num_bytes} bytes have not been transcribed yet, the limit is "
                    f"{self._limits.max_backlog_bytes}: send more slowly, or send files to /v1/audio/transcriptions"
                )
                raise ApiError(429, text, code="audio_too_fast")
            self._num_bytes += len(content)
            self._queue.put_nowait(content)


async def converse(
    websocket: WebSocket,
    door: Door,
    talk: Callable[[LiveSocket], Awaitable[None]],
    describe: Callable[[ApiError], Mapping[str, Any]],
    *,
    subprotocol: str | None = None,
) -> None:
    """Hold one session from the first message to the last; returns when the socket is closed.

    Args:
        websocket: Not accepted yet.
        door: Lets in so many at a time.
        talk: The protocol; when it returns, the socket is closed.
        describe: An error in the protocol's shape.
        subprotocol: What is agreed on with a browser.
    """
    await websocket.accept(subprotocol)
    if not door.has_room():
        text = f"{door.num_open} live sessions are open already, the limit is {door.limits.max_sessions}: try again"
        await _part(websocket, describe(ApiError(429, text, code="rate_limit_exceeded")), TRY_LATER, text)
        return
    door.num_open += 1
    socket = LiveSocket(websocket, door.limits)
    reading, talking = asyncio.ensure_future(socket.read()), asyncio.ensure_future(talk(socket))
    try:
        await asyncio.wait({reading, talking}, timeout=door.limits.session_s, return_when=asyncio.FIRST_COMPLETED)
        error, code = _outcome(reading, talking, door.limits)
    finally:
        door.num_open -= 1
        await _end({reading, talking})
    if websocket.client_state == WebSocketState.CONNECTED:
        await _part(websocket, None if error is None else describe(error), code, error.detail if error else "")


async def _end(tasks: "set[asyncio.Future[None]]") -> None:
    for task in tasks:
        task.cancel()
    # Not `gather`: cancelled meanwhile, it passes on the cancellation of one of these in place of its own, which who
    # asked for it (anyio) then does not know again.
    await asyncio.wait(tasks)
    for task in tasks:
        task.cancelled() or task.exception()  # looked at, or asyncio would complain


def _outcome(
    reading: "asyncio.Future[None]", talking: "asyncio.Future[None]", limits: LiveLimits
) -> tuple[ApiError | None, int]:
    """Why a session ends: what to say and the code to close with."""
    ended = [task for task in (talking, reading) if task.done()]
    if not ended:
        text = f"A session lasts at most {limits.session_s:g} s: begin a new one"
        return ApiError(408, text, code="session_expired"), GOING_AWAY
    failure = ended[0].exception()
    match failure:
        case None | WebSocketDisconnect() | TimeoutError():
            return None, NORMAL
        case ApiError():
            return failure, TOO_BIG if failure.code == "audio_too_fast" else REFUSED
        case OverloadedError():
            return overloaded(failure), TRY_LATER
        case ClosedError():
            return ApiError(503, f"Not taken: {failure}", code="shutting_down"), GOING_AWAY
        case _:
            log.error("a live session failed", exc_info=failure)
            return ApiError(500, f"The server failed: {type(failure).__name__}", code="internal_error"), FAILED


async def _part(websocket: WebSocket, said: Mapping[str, Any] | None, code: int, reason: str) -> None:
    with suppress(WebSocketDisconnect, RuntimeError, TimeoutError):  # it may have gone meanwhile
        if said is not None:
            async with asyncio.timeout(SEND_TIMEOUT_S):
                await websocket.send_text(json.dumps(said))
        await websocket.close(code, reason.encode(errors="replace")[:MAX_REASON_BYTES].decode(errors="ignore"))
