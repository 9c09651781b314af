"""Work for another thread while training goes on: one thing at a time, errors come back, nothing is left undone."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class BackgroundWriter:
    """Writes in a thread; at most one thing is being written, and whoever brings the next one waits for it."""

    def __init__(self) -> None:
        # An executor's thread is joined when the process ends in order, SIGTERM's SystemExit included.
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._running: Future[None] | None = None
        self._done: Callable[[], None] = _nothing

    def submit(self, write: Callable[[], None], done: Callable[[], None]) -> None:
        """Start writing when what is under way has ended.

        Args:
            write: Runs in the thread; must not touch what training changes.
            done: Called afterwards in the thread of whoever calls `submit`, `poll` or `wait` next.

        Raises:
            Exception: What the write before raised.
        """
        self.wait()
        self._done = done
        self._running = self._pool.submit(write)

    def poll(self) -> None:
        """Take note of what has ended, without waiting.

        Raises:
            Exception: What it raised.
        """
        if self._running is not None and self._running.done():
            self.wait()

    def wait(self) -> None:
        """Until nothing is being written.

        Raises:
            Exception: What the write raised.
        """
        running, self._running = self._running, None
        if running is not None:
            running.result()
            self._done()

    def close(self) -> None:
        """Wait for what is under way, whatever becomes of it, and end the thread."""
        self._pool.shutdown(wait=True)


def _nothing() -> None:
    pass
