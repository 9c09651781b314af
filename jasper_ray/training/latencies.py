"""How long the batches of an evaluation took, stage by stage."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from typing import Any

PERCENTS = (50, 90, 95, 99)


@dataclass(frozen=True)
class BatchSeconds:
    """Seconds of one batch."""

    data: float
    """Waited for the loader."""
    model: float
    """Transfer and forward pass, until the device has finished."""
    decoding: float


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """The median and what 90, 95 and 99 of a hundred values do not exceed."""
    ordered = sorted(values)
    return {f"p{share}": ordered[max(0, -(-len(ordered) * share // 100) - 1)] for share in PERCENTS}


def latency_figures(batches: Sequence[BatchSeconds]) -> dict[str, Any]:
    """Number of batches, and mean and percentiles of each stage and of all three, in seconds; only the number if 0."""
    if not batches:
        return {"batches": 0}
    stages = {stage.name: [float(getattr(batch, stage.name)) for batch in batches] for stage in fields(BatchSeconds)}
    stages["total"] = [sum(astuple(batch)) for batch in batches]
    figures = {name: {"mean": statistics.fmean(values), **percentiles(values)} for name, values in stages.items()}
    return {"batches": len(batches), **figures}
