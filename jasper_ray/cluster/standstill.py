"""Which worker the others are waiting for: where each one stands, seen from its stack, and since when."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

PACKAGE = f"{Path(__file__).parents[1]}/"
COLLECTIVES = ("/torch/distributed/", "/ray/train/")
"""Whoever stands in there, called by us, waits for the other workers."""
BACKWARD, READING = "_engine_run_backward", "read_steps"
"""Functions that wait for them too: the all-reduce ends in the backward pass, on a GPU when figures are read."""


@dataclass(frozen=True)
class Beat:
    """What a worker said last of itself."""

    node: str
    """Host name and address."""
    batches: int
    """Batches that it has taken so far; all workers of a group take as many, or one less."""
    place: str
    """Function, file and line."""
    waits: bool
    """Whether it waits for other workers there."""
    stuck_s: float
    """Seconds that it has been in this function."""


@dataclass(frozen=True)
class Sight:
    """Where a thread stands."""

    function: str
    """The innermost of ours, with its file."""
    line: int
    waits: bool
    """Whether it waits for other workers there."""


def sight(frame: FrameType | None) -> Sight:
    """Where a thread stands, by its innermost frame, as `sys._current_frames()` gives it."""
    waits = False
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(PACKAGE):
            function = f"{code.co_name} in {code.co_filename.removeprefix(PACKAGE)}"
            return Sight(function, frame.f_lineno, waits or code.co_name == READING)
        waits = waits or code.co_name == BACKWARD or any(part in code.co_filename for part in COLLECTIVES)
        frame = frame.f_back
    return Sight("code that is not ours", 0, waits=False)


def held_up_by(beats: Mapping[int, Beat], *, after_s: float) -> list[int]:
    """Ranks that others have waited for, in a collective operation, for longer than `after_s`.

    These stand somewhere else meanwhile, or have taken fewer batches. Where all are in the same operation nobody is to
    blame: the network or a device is.
    """
    stuck = {rank: beat for rank, beat in beats.items() if beat.stuck_s > after_s}
    waiting = [beat for beat in stuck.values() if beat.waits]
    if not waiting:
        return []
    others = sorted(rank for rank, beat in stuck.items() if not beat.waits)
    furthest = max(beat.batches for beat in waiting)
    # One batch less is usual: a step's micro-batches need not be a multiple of the workers.
    return others or sorted(rank for rank, beat in stuck.items() if beat.batches < furthest - 1)


def describe(beats: Mapping[int, Beat], ranks: list[int]) -> str:
    """Who holds up whom, in words."""
    waiting = ", ".join(str(rank) for rank in sorted(beats) if beats[rank].waits and rank not in ranks)
    held = "; ".join(
        f"worker {rank} on {beats[rank].node}, for {beats[rank].stuck_s:.0f} s in {beats[rank].place}" for rank in ranks
    )
    return f"workers {waiting} wait in a collective operation for {held}"
