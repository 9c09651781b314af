"""Files of this machine: written whole or not at all, with the errors of a store."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from jasper_ray.errors import StorageError

Value = TypeVar("Value")


def on_disk(uri: str, work: Callable[[], Value]) -> Value:
    """What `work` gives.

    Raises:
        StorageError: In place of any `OSError`; names `uri`.
    """
    try:
        return work()
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"{uri}: {error.strerror or error}") from error


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A temporary file beside `target` that takes its place at the end of the block, or vanishes after an error."""
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
    os.close(descriptor)
    unfinished = Path(name)
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.chmod(0o644)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def replace(target: Path, content: bytes | Path) -> None:
    """Put bytes, or a copy of a file, in the place of `target`."""
    with replacing(target) as unfinished:
        if isinstance(content, Path):
            shutil.copyfile(content, unfinished)
        else:
            unfinished.write_bytes(content)
