"""A local file into an object, in a way that no interrupt can cut."""

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import pyarrow.fs as pafs

PIECE_BYTES = 8 << 20
"""Read at a time of a file that is uploaded."""
NUM_UPLOADS = 8
"""At a time in a process; more wait."""


@lru_cache(maxsize=1)
def upload_threads() -> ThreadPoolExecutor:
    """Where `put` is to run: Ctrl-C never comes there."""
    # For the whole life of the process: Python loses an interrupt that comes while it cleans up after a thread.
    return ThreadPoolExecutor(NUM_UPLOADS, "upload")


os.register_at_fork(after_in_child=upload_threads.cache_clear)  # threads do not come along


def put(local: Path, filesystem: pafs.FileSystem, path: str) -> None:
    """Fill an object from a file; to be run by one of `upload_threads`.

    pyarrow completes a stream that is dropped, so that an interrupt between two writes would leave a cut object under
    the final name. `pyarrow.fs.copy_files` knows no interrupts, but takes failed uploads for successful ones.
    """
    with local.open("rb") as source:
        stream = filesystem.open_output_stream(path, compression=None)  # else by name: it would gzip a .gz again
        while True:
            try:
                piece = source.read(PIECE_BYTES)
            except OSError:
                # For ever: dropping the stream, be it at the end of the process, would put what it has.
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(stream))
                raise
            if not piece:
                break
            stream.write(piece)
        stream.close()
