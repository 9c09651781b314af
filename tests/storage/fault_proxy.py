"""A TCP proxy in front of an HTTP server that spoils some of its answers, by the draws of a seed.

Runs in a thread of this process. One request a connection, so that a fault concerns one request and no other.
"""

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

CHUNK_BYTES = 64 << 10
REFUSAL = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Slow down.</Message></Error>"


@dataclass
class Faults:
    """What is spoiled; may be changed while the proxy runs."""

    cut: float = 0.0
    """Share of requests whose body, in whichever direction it goes, ends in the middle."""
    refuse: float = 0.0
    """Share that is answered with 503 SlowDown."""
    hang: float = 0.0
    """Share that is never answered."""
    first: str = ""
    """The fault of the next request, whatever the draws say: `cut`, `refuse` or `hang`."""
    bytes_per_s: float = float("inf")
    """Speed of answers' bodies."""
    only: str = ""
    """Spoil only requests whose first line contains this."""


class FaultProxy:
    """`counts` holds `requests` and how many of them were `cut`, `refuse`d and left to `hang`."""

    def __init__(self, server_port: int, faults: Faults, *, seed: int = 0) -> None:
        self.faults = faults
        self.counts: Counter[str] = Counter()
        self.lines: list[str] = []
        """First lines of all requests with their fault, in the order they came."""
        self._server_port = server_port
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),), daemon=True)
        self._stopped = asyncio.Event()
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
        self._loop.close()

    async def _run(self) -> None:
        server = await asyncio.start_server(self._accept, sock=self._listener, limit=1 << 20)
        await self._stopped.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            # A client that goes away ends its request and nothing else.
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._serve(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.close()

    def _draw(self, line: str) -> str:
        """One draw per request, whether it is spoiled or not."""
        faults, draw = self.faults, self._random.random()
        fault = ""
        if faults.only in line:
            if faults.first:
                fault, faults.first = faults.first, ""
            else:
                for name, share in (("cut", faults.cut), ("refuse", faults.refuse), ("hang", faults.hang)):
                    if draw < share:
                        fault = name
                        break
                    draw -= share
        self.counts["requests"] += 1
        if fault:
            self.counts[fault] += 1
        self.lines.append(f"{line} {fault}".strip())
        return fault

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        line = head.split(b"\r\n", 1)[0].decode("latin-1").rsplit(" ", 1)[0]
        fault = self._draw(line)
        if fault == "hang":
            while await reader.read(CHUNK_BYTES):  # until the client gives up
                pass
        elif fault == "refuse":
            await self._refuse(head, reader, writer)
        else:
            await self._relay(head, reader, writer, cut=fault == "cut")

    async def _refuse(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"100-continue" not in head.lower():
            await _copy(reader, None, body_length(head))
        no_body = head.startswith(b"HEAD")
        headers = f"Content-Type: application/xml\r\nContent-Length: {len(REFUSAL)}\r\nConnection: close\r\n\r\n"
        writer.write(b"HTTP/1.1 503 Slow Down\r\n" + headers.encode() + (b"" if no_body else REFUSAL))
        await writer.drain()

    async def _relay(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, cut: bool
    ) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._server_port, limit=1 << 20)
        to_server.write(head)
        length = body_length(head)
        limit = length // 2 if cut and length else length

        async def send() -> None:
            await _copy(reader, to_server, limit)
            if limit < length:
                _reset(to_server)
                _reset(writer)

        sending = asyncio.create_task(send())
        try:
            while True:
                answer = await from_server.readuntil(b"\r\n\r\n")
                if not answer.startswith(b"HTTP/1.1 100"):
                    break
                writer.write(answer)
                await writer.drain()
            await self._answer(answer, from_server, writer, cut=cut and not length, bodiless=head.startswith(b"HEAD"))
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            to_server.close()

    async def _answer(
        self, head: bytes, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, cut: bool, bodiless: bool
    ) -> None:
        status = head.split(b" ", 2)[1]
        first, rest = head.split(b"\r\n", 1)
        kept = [item for item in rest.split(b"\r\n") if not item.lower().startswith(b"connection:")]
        target.write(b"\r\n".join([first, b"Connection: close", *kept]))
        await target.drain()
        if bodiless or status in (b"204", b"304"):
            return
        if b"transfer-encoding: chunked" in head.lower():
            await self._answer_in_chunks(source, target)
            return
        length = body_length(head)
        # What was sent of a cut body arrives: a client that does not count takes it for the whole.
        await _copy(source, target, length // 2 if cut else length, bytes_per_s=self.faults.bytes_per_s)

    async def _answer_in_chunks(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while True:
            size = await source.readuntil(b"\r\n")
            target.write(size + await source.readexactly(int(size.split(b";")[0], 16) + 2))
            await target.drain()
            if not int(size.split(b";")[0], 16):
                return


def body_length(head: bytes) -> int:
    """What Content-Length says, 0 without one."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


async def _copy(
    source: asyncio.StreamReader,
    target: asyncio.StreamWriter | None,
    length: int,
    *,
    bytes_per_s: float = float("inf"),
) -> None:
    size = CHUNK_BYTES if bytes_per_s == float("inf") else max(1, int(bytes_per_s / 20))
    while length:
        chunk = await source.read(min(size, length))
        if not chunk:
            raise ConnectionResetError("the body ended early")
        length -= len(chunk)
        if target is not None:
            target.write(chunk)
            await target.drain()
        if bytes_per_s != float("inf"):
            await asyncio.sleep(len(chunk) / bytes_per_s)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Drop the connection as a dying server does, with what was sent on its way."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextmanager
def fault_proxy(server_port: int, faults: Faults, *, seed: int = 0) -> Iterator[FaultProxy]:
    """A proxy for the time of the block."""
    proxy = FaultProxy(server_port, faults, seed=seed)
    try:
        yield proxy
    finally:
        proxy.close()
