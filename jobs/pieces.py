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


def add_piece_options(parser: argparse.ArgumentParser) -> None:
    """Add `--on` and `--work`."""
    parser.add_argument(
        "--on",
        choices=["auto", "here", "cluster"],
        default="auto",
        help="in this process, or in pieces on all nodes of the cluster (default auto: there if RAY_ADDRESS is set)",
    )
    parser.add_argument(
        "--work",
        metavar="FOLDER",
        help="keep the results of finished pieces there, local or s3://: the same command again does only the others",
    )


def on_cluster(arguments: argparse.Namespace) -> bool:
    """Whether the options ask for all nodes."""
    return arguments.on == "cluster" or (arguments.on == "auto" and bool(os.environ.get("RAY_ADDRESS")))


def in_pieces(arguments: argparse.Namespace) -> bool:
    """Whether there is a reason to cut the work into pieces."""
    return on_cluster(arguments) or bool(arguments.work)


def run_pieces(
    arguments: argparse.Namespace,
    work: "Work[Piece]",
    pieces: Sequence[Piece],
    *,
    job: Mapping[str, Any],
    num_cpus: int,
    name: str,
) -> list[Result]:
    """Results of all pieces, in their order.

    Args:
        arguments: With the options of `add_piece_options` and `--device`.
        work: What is done; on a cluster it travels to other processes.
        pieces: The pieces.
        job: What the results depend on; see `PieceResults`.
        num_cpus: CPUs that a piece holds on a cluster.
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
    connection, calls = _calls(arguments, work, missing, num_cpus=num_cpus, name=name)
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
    arguments: argparse.Namespace, work: "Work[Piece]", missing: list[tuple[int, Piece]], *, num_cpus: int, name: str
) -> tuple[AbstractContextManager[None], Callable[[], Iterable[tuple[int, Result]]]]:
    def here() -> Iterator[tuple[int, Result]]:
        return map(work, missing)

    if not missing or not on_cluster(arguments):
        return nullcontext(), here
    from jasper_ray.cluster.handing_out import HandingOut
    from jasper_ray.cluster.trainer import connected_to_ray

    num_gpus = 1.0 if arguments.device.startswith("cuda") else 0.0
    calls: HandingOut[tuple[int, Piece], tuple[int, Result]] = HandingOut(
        work, name=name, what="a piece", num_cpus=num_cpus, num_gpus=num_gpus
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
