"""A run in TensorBoard."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jasper_ray.observe.scalars import scalars, step_of
from jasper_ray.storage import object_store
from jasper_ray.training.report import PUT_AT, EventKind

FOLDER = "tensorboard"


class TensorBoardReporter:
    """Writes `tensorboard/` in the run's folder; after a resume TensorBoard forgets the steps that are made again.

    On an object store files are put at every evaluation, checkpoint and at the end.

    Args:
        output: Folder of the run.
    """

    def __init__(self, output: str) -> None:
        self._uri = object_store.join(output, FOLDER)
        self._temporary = None if object_store.is_local(output) else tempfile.TemporaryDirectory(prefix="jasper-board-")
        self._folder = object_store.local_path(self._uri) if self._temporary is None else Path(self._temporary.name)
        self._writer: Any = None

    def report(self, kind: EventKind, values: Mapping[str, object]) -> None:
        """Take one event."""
        step = step_of(values)
        if self._writer is None:
            self._open(step)
        for name, value in scalars(kind, values):
            self._writer.add_scalar(name, value, step)
        if kind == "sample":
            text = f"reference: {values['reference']}\n\nhypothesis: {values['hypothesis']}"
            self._writer.add_text("train/sample", text, step)
        if kind in PUT_AT:
            self._writer.flush()
            self._put()
        if kind == "end":
            self._writer.close()
            self._put()
            self._writer = None

    def _open(self, step: int) -> None:
        from tensorboardX import SummaryWriter  # takes a second, and only the first worker needs it

        self._writer = SummaryWriter(str(self._folder), purge_step=step + 1 if step else None, flush_secs=10)

    def _put(self) -> None:
        if self._temporary is not None:
            for path in sorted(self._folder.iterdir()):
                object_store.upload_file(path, object_store.join(self._uri, path.name))
