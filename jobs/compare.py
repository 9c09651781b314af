"""Do two runs tell the same story? `python -m jobs.compare RUN OTHER`: losses per step, utterances, evaluations."""

import argparse
from collections.abc import Mapping
from functools import partial
from typing import Any

from jasper_ray.errors import DataError
from jasper_ray.training.report import read_log
from jobs.entry import run_job


def compare(run: str, other: str) -> Mapping[str, Any]:
    """Largest relative differences over the steps and evaluations that both runs have.

    Raises:
        DataError: A run has no log, or they have no step in common.
    """
    logs = [_by_kind(run), _by_kind(other)]
    steps = _shared(logs, "progress")
    if not steps:
        raise DataError(f"{run} and {other} have logged no step in common: train both with training.log_every_steps=1")
    evaluations, lists = _shared(logs, "evaluation"), _shared(logs, "utterances")
    return {
        "steps_compared": len(steps),
        "max_relative_loss_difference": _largest(logs, "progress", steps),
        "steps_with_utterance_lists": len(lists),
        "same_utterances": all(
            logs[0]["utterances"][step]["microbatches"] == logs[1]["utterances"][step]["microbatches"] for step in lists
        ),
        "evaluations_compared": evaluations,
        "max_relative_evaluation_loss_difference": _largest(logs, "evaluation", evaluations),
        "evaluation_losses": [[log["evaluation"][step]["loss"] for step in evaluations] for log in logs],
    }


def _by_kind(run: str) -> dict[str, dict[int, Any]]:
    """Events by kind and global step."""
    events: dict[str, dict[int, Any]] = {"progress": {}, "evaluation": {}, "utterances": {}}
    for event in read_log(run):
        kind, step = event["event"], event.get("global_step")
        if isinstance(kind, str) and isinstance(step, int) and kind in events:
            events[kind][step] = event
    if not events["progress"]:
        raise DataError(f"{run} has no log of a run: name the run's output folder")
    return events


def _shared(logs: list[dict[str, dict[int, Any]]], kind: str) -> list[int]:
    return sorted(logs[0][kind].keys() & logs[1][kind].keys())


def _largest(logs: list[dict[str, dict[int, Any]]], kind: str, steps: list[int]) -> float:
    pairs = [(log_a["loss"], log_b["loss"]) for log_a, log_b in ((logs[0][kind][s], logs[1][kind][s]) for s in steps)]
    return max((abs(a - b) / abs(b) for a, b in pairs if a is not None and b), default=0.0)


def main() -> None:
    """Compare the logs of two runs, step by step."""
    parser = argparse.ArgumentParser(prog="python -m jobs.compare", description=main.__doc__)
    parser.add_argument("run", help="output folder of a run, local or s3://")
    parser.add_argument("other", help="output folder of the run to compare with")
    arguments = parser.parse_args()
    run_job(partial(compare, arguments.run, arguments.other))


if __name__ == "__main__":
    main()
