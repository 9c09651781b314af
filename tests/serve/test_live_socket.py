import asyncio
from typing import Any

import pytest

from serve.live_socket import LiveLimits, LiveSocket


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
