"""Progress of a preparation: a bar on a terminal, a line now and then in a log."""

import time
from collections.abc import Iterable, Iterator
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from jasper_ray.data.preparation import Runner
from jasper_ray.data.shard_task import ShardRecord, ShardTask

LINE_EVERY_S = 10.0


class ShardProgress:
    """Counts the shards that are listed and those that are done."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task: TaskID = self._bar.add_task("shards", total=None)
        self._listed, self._done, self._utterances, self._hours = 0, 0, 0, 0.0
        self._said_s = time.monotonic()

    def __enter__(self) -> "ShardProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def watching(self, run: Runner) -> Runner:
        """The same runner, watched."""

        def watched(tasks: Iterator[ShardTask]) -> Iterable[ShardRecord]:
            for record in run(self._listing(tasks)):
                self._done += 1
                self._utterances += len(record.rows)
                self._hours += sum(row["duration_s"] for row in record.rows) / 3600
                self._show()
                yield record

        return watched

    def _listing(self, tasks: Iterator[ShardTask]) -> Iterator[ShardTask]:
        for task in tasks:
            self._listed += 1
            yield task
        self._bar.update(self._task, total=self._listed)

    def _show(self) -> None:
        told = f"{self._utterances:,} utterances, {self._hours:.2f} h"
        self._bar.update(self._task, completed=self._done, description=told)
        if not self._console.is_terminal and time.monotonic() - self._said_s > LINE_EVERY_S:
            self._said_s = time.monotonic()
            self._console.print(f"{self._done} of {self._listed} shards listed so far: {told}", highlight=False)
