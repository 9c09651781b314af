"""Jobs whose work comes in pieces: on all nodes of a cluster or here, with results that outlive the job."""

import argparse
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from jasper_ray.errors import ConfigError
from jasper_ray.storage import object_store
from jasper_ray.storage.piece_results import PieceResults
from jobs.entry import console

Piece = TypeVar("Piece")
Result = dict[str, Any]
Work = Callable[[tuple[int, Piece]], tuple[int, Result]]
"""Number and piece to number and result."""

LINE_EVERY_S = 10.0


def add_piece_options(parser: argparse.ArgumentParser, *, threads: str) -> None:
    """Add `--on`, `--threads`, `--wait-for-nodes-s` and `--work`."""
    parser.add_argument(
        "--on",
        choices=["auto", "here", "cluster"],
        default="auto",
        help="in this process, or in pieces on all nodes of the cluster (default auto: there if RAY_ADDRESS is set)",
    )
    parser.add_argument("--threads", type=int, help=f"{threads}; on a cluster the CPUs of a piece (default there 1)")
    parser.add_argument(
        "--wait-for-nodes-s",
        type=float,
        default=0.0,
        metavar="S",
        help="on a cluster: how long an autoscaler may take to add the first node that can hold a piece (default 0)",
    )
    parser.add_argument(
        "--work",
        metavar="FOLDER",
        help="keep the results of finished pieces there, local or s3://: the same command again does only the others",
    )


def on_cluster(arguments: argparse.Namespace) -> bool:
    """Whether the options ask for all nodes."""
    return arguments.on == "cluster" or (arguments.on == "auto" and bool(os.environ.get("RAY_ADDRESS")))


def num_threads(arguments: argparse.Namespace, *, here: int) -> int:
    """`--threads`, or what it is by default.

    Args:
        arguments: With the options of `add_piece_options`.
        here: The default in this process.

    Raises:
        ConfigError: It is below 1.
    """
    threads: int = (1 if on_cluster(arguments) else here) if arguments.threads is None else arguments.threads
    if threads < 1:
        raise ConfigError(f"--threads must be at least 1, got {threads}")
    return threads


def in_pieces(arguments: argparse.Namespace) -> bool:
    """Whether there is a reason to cut the work into pieces."""
    return on_cluster(arguments) or bool(arguments.work)


def run_pieces(
    arguments: argparse.Namespace,
    work: "Work[Piece]",
    pieces: Sequence[Piece],
    *,
    job: Mapping[str, Any],
    name: str,
) -> list[Result]:
    """Results of all pieces, in their order.

    Args:
        arguments: With the options of `add_piece_options` and `--device`.
        work: What is done; on a cluster it travels to other processes.
        pieces: The pieces.
        job: What the results depend on; see `PieceResults`.
        name: Of a piece's task, as Ray shows it.

    Raises:
        CapacityError: No node has what a piece asks for.
        ConfigError: The folder of `--work` holds results of other work.
        JasperRayError: A piece's own error.
    """
    kept = PieceResults(arguments.work, {**job, "num_pieces": len(pieces)}) if arguments.work else None
    finished = kept.finished() if kept else set()
    results = {number: kept.read(number) for number in sorted(finished)} if kept else {}
    missing = [(number, piece) for number, piece in enumerate(pieces) if number not in finished]
    if finished:
        console.print(f"{len(finished)} of {len(pieces)} pieces are finished already ({arguments.work})", markup=False)
    connection, calls = _calls(arguments, work, missing, name=name)
    said_s = time.monotonic()
    with connection:
        for number, result in calls():
            if kept:
                kept.write(number, result)
            results[number] = result
            if time.monotonic() - said_s > LINE_EVERY_S:
                said_s = time.monotonic()
                console.print(f"{len(results)} of {len(pieces)} pieces", highlight=False)
    return [results[number] for number in range(len(pieces))]


def _calls(
    arguments: argparse.Namespace, work: "Work[Piece]", missing: list[tuple[int, Piece]], *, name: str
) -> tuple[AbstractContextManager[None], Callable[[], Iterable[tuple[int, Result]]]]:
    def here() -> Iterator[tuple[int, Result]]:
        return map(work, missing)

    if not missing or not on_cluster(arguments):
        return nullcontext(), here
    from jasper_ray.cluster.handing_out import HandingOut
    from jasper_ray.cluster.trainer import connected_to_ray

    num_gpus = 1.0 if arguments.device.startswith("cuda") else 0.0
    calls: HandingOut[tuple[int, Piece], tuple[int, Result]] = HandingOut(
        work,
        name=name,
        what="a piece",
        num_cpus=num_threads(arguments, here=1),
        num_gpus=num_gpus,
        wait_for_nodes_s=arguments.wait_for_nodes_s,
    )
    return connected_to_ray(), lambda: calls(missing)


def state_of(folder: str, *files: str) -> dict[str, Any]:
    """Where a folder lies, and size and time of change of its files: what tells a bundle from the next one there.

    Raises:
        ConfigError: A file is not there.
    """
    found: dict[str, Any] = {"folder": object_store.absolute(folder)}
    for file in files:
        uri = object_store.join(folder, file)
        if not object_store.exists(uri):
            raise ConfigError(f"{uri} is not there")
        if object_store.is_local(uri):
            stat = object_store.local_path(uri).stat()
            found[file] = [stat.st_size, stat.st_mtime_ns]
        else:
            entry = object_store.look(uri)
            found[file] = [entry.num_bytes, entry.changed_ns] if entry else None
    return found
