import asyncio
from typing import Any

import pytest

from serve.live_socket import Door, LiveLimits, LiveSocket, converse


class OneMessage:
    """A WebSocket on which one message comes when it is asked for, and nothing after it."""

    def __init__(self) -> None:
        self.comes = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.comes.wait()
        self.comes.clear()
        return {"type": "websocket.receive", "bytes": b"x"}

    async def send_text(self, text: str) -> None:
        """At once."""


@pytest.mark.parametrize("turns", range(12))
def test_a_session_that_is_ended_while_a_message_comes_ends(turns: int) -> None:
    async def scenario() -> None:
        websocket = OneMessage()
        socket = LiveSocket(websocket, LiveLimits(idle_s=20))  # type: ignore[arg-type]

        async def talk() -> None:
            async for _ in socket.messages():
                await socket.send({})

        reading, talking = asyncio.ensure_future(socket.read()), asyncio.ensure_future(talk())
        await asyncio.sleep(0.01)
        websocket.comes.set()
        for _ in range(turns):  # of the event loop: at each of them the session may end
            await asyncio.sleep(0)
        talking.cancel()
        reading.cancel()
        done, _ = await asyncio.wait({talking}, timeout=1)
        assert talking in done and talking.cancelled()

    asyncio.run(scenario())


class Leaving(OneMessage):
    """A client that goes at once."""

    client_state = None

    async def accept(self, subprotocol: str | None) -> None:
        """At once."""

    async def receive(self) -> dict[str, Any]:
        return {"type": "websocket.disconnect"}


@pytest.mark.parametrize("turns", range(12))
def test_who_cancels_a_session_while_it_ends_gets_the_own_cancellation(turns: int) -> None:
    async def talk(socket: LiveSocket) -> None:
        await asyncio.sleep(60)

    async def scenario() -> None:
        session = asyncio.ensure_future(converse(Leaving(), Door(LiveLimits()), talk, lambda error: {}))  # type: ignore[arg-type]
        for _ in range(turns):  # of the event loop: in one of them the session has told its tasks to end
            await asyncio.sleep(0)
        if session.cancel("by the test"):
            with pytest.raises(asyncio.CancelledError) as caught:
                await session
            assert caught.value.args == ("by the test",)

    asyncio.run(scenario())
