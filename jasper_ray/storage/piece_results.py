"""Results of a job's pieces in a folder, local or on a store, so that the same command goes on where one ended."""

import json
from collections.abc import Mapping
from typing import Any

from jasper_ray.errors import ConfigError, DataError
from jasper_ray.storage import object_store

JOB_FILE = "job.json"


class PieceResults:
    """A file of JSON per finished piece, written whole or not at all, beside `job.json`, which says what it is of.

    Args:
        folder: Where; made if it is not there.
        job: What the results depend on, as JSON; a folder of any other work is refused.

    Raises:
        ConfigError: The folder holds results of other work; says what differs.
        DataError: `job.json` cannot be read.
    """

    def __init__(self, folder: str, job: Mapping[str, Any]) -> None:
        self.folder = folder
        job = json.loads(json.dumps(job))
        uri = object_store.join(folder, JOB_FILE)
        if object_store.exists(uri):
            self._require_same(_read(uri), job)
        else:
            object_store.write_bytes(uri, json.dumps(job, indent=1).encode())

    def finished(self) -> set[int]:
        """Numbers of the pieces whose results lie there."""
        names = [uri.rpartition("/")[2] for uri in object_store.list_files(self.folder)]
        return {int(name[6:-5]) for name in names if name.startswith("piece-") and name.endswith(".json")}

    def write(self, number: int, result: Mapping[str, Any]) -> None:
        """Keep the result of a piece."""
        object_store.write_bytes(self._uri(number), json.dumps(result).encode())

    def read(self, number: int) -> dict[str, Any]:
        """The result of a finished piece, as JSON gives it back.

        Raises:
            DataError: It is damaged.
        """
        return _read(self._uri(number))

    def _uri(self, number: int) -> str:
        return object_store.join(self.folder, f"piece-{number:06d}.json")

    def _require_same(self, there: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        differing = [key for key in {**there, **now} if there.get(key) != now.get(key)]
        if differing:
            key = differing[0]
            raise ConfigError(
                f"{self.folder} holds results of other work: {key} was {there.get(key)!r} and is {now.get(key)!r} now. "
                "Take another folder, or delete this one"
            )


def _read(uri: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(object_store.read_bytes(uri))
    except ValueError as error:
        raise DataError(f"{uri} is damaged ({error}): delete it, and its piece is done again") from error
    return found
