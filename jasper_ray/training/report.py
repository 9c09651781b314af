"""What a run says while it runs: events, who hears them, and the log file that keeps them."""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from jasper_ray.errors import StorageError
from jasper_ray.storage import object_store

logger = logging.getLogger(__name__)

EventKind = Literal["start", "progress", "sample", "utterances", "evaluation", "saving", "checkpoint", "warning", "end"]
LOG_FILE = "log.jsonl"
PUT_AT: tuple[EventKind, ...] = ("evaluation", "saving", "end")
"""When files of an object store are put: before a checkpoint is there, or a run that dies goes on from one whose steps
are missing in its log.
"""


class Reporter(Protocol):
    """Hears the events of a run; every worker has one of its own."""

    def report(self, kind: EventKind, values: Mapping[str, object]) -> None:
        """Take one event; `values` are plain JSON values with units in their names."""


class Reporters:
    """Passes every event on to several reporters."""

    def __init__(self, reporters: Sequence[Reporter]) -> None:
        self._reporters = reporters

    def report(self, kind: EventKind, values: Mapping[str, object]) -> None:
        """Take one event."""
        for reporter in self._reporters:
            reporter.report(kind, values)


class LineFile:
    """A text file that grows by lines: on a disk one by one, on an object store it is put as a whole now and then.

    Args:
        uri: The file.
        lines: What it begins with; an older file of that name goes.
    """

    def __init__(self, uri: str, lines: Sequence[str]) -> None:
        self._uri = uri
        self._local = object_store.is_local(uri)
        self._lines = list(lines)
        self._put()

    def append(self, line: str, *, put: bool) -> None:
        """Add a line; `put` says that it is time to put the file where it is not on a disk."""
        if self._local:
            with object_store.local_path(self._uri).open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            return
        self._lines.append(line)
        if put:
            self.put()

    def put(self) -> None:
        """Put the file where it is not on a disk."""
        if not self._local:
            self._put()

    def _put(self) -> None:
        object_store.write_bytes(self._uri, "".join(line + "\n" for line in self._lines).encode())


class RunLog:
    """`log.jsonl` in the run's folder: one event a line, the same file again after a resume.

    A local file grows line by line; on an object store the whole file is put at every evaluation, before every
    checkpoint and at the end.

    Args:
        output: Folder of the run.
        resume_step: Global step that the run goes on from; later lines of an earlier job are dropped, so that no step
            stands in the log twice.
    """

    def __init__(self, output: str, *, resume_step: int) -> None:
        kept = [line for line in read_log(output) if _global_step(line) <= resume_step] if resume_step else []
        self._file = LineFile(object_store.join(output, LOG_FILE), [json.dumps(line) for line in kept])

    def report(self, kind: EventKind, values: Mapping[str, object]) -> None:
        """Append one event."""
        if kind == "saving":  # of no interest by itself
            self._file.put()
            return
        self._file.append(json.dumps({"event": kind, **values}), put=kind in PUT_AT)


def read_log(output: str) -> list[dict[str, object]]:
    """The events of a run; an unfinished last line (the machine died while writing it) is left out."""
    try:
        text = object_store.read_bytes(object_store.join(output, LOG_FILE)).decode()
    except StorageError:
        return []
    events = []
    for line in text.splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            logger.warning("%s: left out a damaged line of %d characters", LOG_FILE, len(line))
    return events


def _global_step(event: Mapping[str, object]) -> int:
    step = event.get("global_step", 0)
    return step if isinstance(step, int) else 0
