"""The all-reduce between two nodes, as training does it, in every pair of them."""

import datetime
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore

BYTES = 16 * 2**20
"""About what DDP sends in one bucket."""
ROUNDS = 4


class LinkProbe:
    """One end of a link; lives on one node, with a GPU of it for NCCL."""

    def __init__(self) -> None:
        self._store: TCPStore | None = None

    def offer(self, host: str) -> int:
        """Begin a meeting of two here; gives its port."""
        self._store = TCPStore(
            host, 0, world_size=2, is_master=True, wait_for_workers=False, timeout=datetime.timedelta(seconds=30)
        )
        return int(self._store.port)

    def all_reduce(self, rank: int, host: str, port: int, backend: str, timeout_s: float) -> dict[str, Any]:
        """Meet the other end and add up `BYTES` with it, some times over; speed in Gbit/s each way, or the error."""
        limit = datetime.timedelta(seconds=timeout_s)
        try:
            store = self._store if rank == 0 else TCPStore(host, port, world_size=2, timeout=limit)
            dist.init_process_group(backend, store=store, rank=rank, world_size=2, timeout=limit)
            try:
                return {"gbit_per_s": _speed("cuda" if backend == "nccl" else "cpu")}
            finally:
                dist.destroy_process_group()
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return {"error": lines[0][:200]}
        finally:
            self._store = None


def _speed(device: str) -> float:
    """Two nodes exchange the tensor's size once each way in an all-reduce."""
    tensor = torch.ones(BYTES // 4, device=device)
    quickest_s = float("inf")
    for _ in range(1 + ROUNDS):  # the first makes the connections
        started_s = time.perf_counter()
        dist.all_reduce(tensor)
        if device == "cuda":
            torch.cuda.synchronize()
        quickest_s = min(quickest_s, time.perf_counter() - started_s)
    return 8 * BYTES / quickest_s / 1e9


def tournament(names: Sequence[str]) -> list[list[tuple[str, str]]]:
    """Every pair once, in rounds in which no name appears twice: pairs of a round are measured side by side."""
    players: list[str | None] = [*names, *([None] if len(names) % 2 else [])]
    rounds = []
    for _ in range(len(players) - 1):
        half = len(players) // 2
        pairs = zip(players[:half], reversed(players[half:]), strict=True)
        rounds.append([(a, b) for a, b in pairs if a is not None and b is not None])
        players = [players[0], players[-1], *players[1:-1]]
    return rounds
