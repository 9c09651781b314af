"""What is asked of a node by a task that runs on it. Sent to the node by value: it need not have our newest code.

Nothing of jasper_ray is imported at the top for that reason; the store is tried with the node's own copy of our client.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

PACKAGES = ("ray", "torch", "pyarrow", "numpy")
DALI = "nvidia-dali-cuda"
CONNECT_TIMEOUT_S = 3.0
STORE_BYTES = 8_000_000


class NodeProbe:
    """Lives on one node for the length of an examination."""

    def clock(self) -> float:
        """This node's time."""
        return time.time()

    def facts(self, cache_dir: str, shared_memory: str) -> dict[str, Any]:
        """What can be said without asking others."""
        disk = _existing(Path(cache_dir).expanduser())
        return {
            "versions": versions(),
            "gpus": gpus(),
            "disk_free_bytes": shutil.disk_usage(disk).free,
            "disk_path": str(disk),
            "shared_memory_bytes": shutil.disk_usage(shared_memory).total,
        }

    def connections(self, addresses: list[tuple[str, str, int]]) -> list[str]:
        """Which of (what, host, port) do not take a connection."""
        with ThreadPoolExecutor(32) as pool:
            closed = list(pool.map(lambda address: not _connects(address[1], address[2]), addresses))
        return [f"{what} ({host}:{port})" for (what, host, port), shut in zip(addresses, closed, strict=True) if shut]

    def answers_strangers(self, address: str) -> bool:
        """Whether Ray's HTTP service there answers a request without a token."""
        try:
            urllib.request.urlopen(f"http://{address}/", timeout=CONNECT_TIMEOUT_S).close()
        except urllib.error.HTTPError as error:
            return error.code not in (401, 403)
        except OSError:
            return False
        return True

    def store(self, uri: str) -> dict[str, Any]:
        """Write, read and delete an object below `uri`."""
        # The node's own client, with the node's endpoint, role and keys.
        from jasper_ray.storage import object_store

        data = os.urandom(STORE_BYTES)
        place = object_store.join(uri, f"doctor-{socket.gethostname()}-{uuid.uuid4().hex}")
        try:
            started_s = time.perf_counter()
            object_store.write_bytes(place, data)
            written_s = time.perf_counter()
            same = object_store.read_bytes(place) == data
            read_s = time.perf_counter()
            object_store.delete_file(place)
        except Exception as error:
            return {"uri": uri, "error": " ".join(str(error).split())}
        if not same:
            return {"uri": uri, "error": "what was read is not what was written"}
        megabytes = STORE_BYTES / 1e6
        return {
            "uri": uri,
            "write_mb_per_s": megabytes / (written_s - started_s),
            "read_mb_per_s": megabytes / (read_s - written_s),
        }


def versions() -> dict[str, str]:
    """Python, packages, and our code by what its files hold."""
    found = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
    dali = sorted(
        f"{name} {distribution.version}"
        for distribution in importlib.metadata.distributions()
        if (name := distribution.metadata["Name"] or "").lower().startswith(DALI)
    )
    found["dali"] = ", ".join(dali) or "none"
    found["jasper_ray"] = _code_version()
    return found


def gpus() -> list[tuple[str, int, str]]:
    """Name, memory in MiB and driver of each GPU, by nvidia-smi; none without it."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    query = ["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
    result = subprocess.run([command, *query], capture_output=True, text=True, timeout=30)
    rows = [line.split(", ") for line in result.stdout.splitlines() if line.count(", ") == 2]
    return [(name, int(float(memory)), driver) for name, memory, driver in rows]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _code_version() -> str:
    """The first digits of a sum over the source files of the copy of jasper_ray that this process would import."""
    spec = importlib.util.find_spec("jasper_ray")
    if spec is None or not spec.submodule_search_locations:
        return "none"
    digest = hashlib.sha256()
    root = Path(next(iter(spec.submodule_search_locations)))
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:10]


def _connects(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def _existing(path: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(folder for folder in (path, *path.parents) if folder.exists())
