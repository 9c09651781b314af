"""What a sweep knows of its trials: `trials/0003/record.json`, written at every evaluation and at the end."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

import pyarrow as pa
import pyarrow.parquet as pq

from jasper_ray.errors import DataError, StorageError
from jasper_ray.storage import object_store
from tuning.spaces import Params

TRIALS, RECORD_FILE, RESULTS_FILE = "trials", "record.json", "results.parquet"
Status = Literal["running", "lost", "finished", "stopped", "diverged", "failed"]
"""`lost`: its workers or node, too often, so that the same command takes it up again; `stopped`: by the scheduler;
`diverged`: losses that are not finite; `failed`: by an error of its own."""


@dataclass(frozen=True)
class Evaluation:
    """A trial on data.evaluation."""

    epoch: int
    """Epochs made."""
    step: int
    """Optimizer steps made."""
    wer: float
    loss: float | None
    """Mean CTC loss per utterance in nats; None if it was not finite."""
    time_s: float
    """When, in seconds since 1970."""
    words: int = 0
    """In the references of data.evaluation; 0 if it is not known."""


@dataclass(frozen=True)
class Attempt:
    """One stretch of training, from its start to its end or interruption."""

    started_s: float
    """When the trial was given to the cluster, for a retry when its process was ready; in seconds since 1970."""
    first_step_s: float | None = None
    """When its workers had made their first steps that were reported."""
    built_s: float | None = None
    """When its workers had model and data."""
    last_s: float | None = None
    """When it was last heard of."""


@dataclass(frozen=True)
class TrialRecord:
    """A trial, as far as it is known."""

    number: int
    params: Params
    status: Status = "running"
    error: str = ""
    evaluations: tuple[Evaluation, ...] = ()
    """In order of their steps."""
    attempts: tuple[Attempt, ...] = ()
    num_parameters: int = 0
    workers: int = 0
    parent: int | None = None
    """Trial from whose checkpoint this one went on, in a population; None began anew."""
    until_epoch: int | None = None
    """Epoch at which it was to stop, in a population; None is the end of the run."""

    @property
    def has_ended(self) -> bool:
        """Whether it will not be taken up again."""
        return self.status not in ("running", "lost")

    @property
    def best(self) -> Evaluation | None:
        """The evaluation with the lowest word error rate; of equals the first, whose bundle is kept."""
        return min(self.evaluations, key=lambda evaluation: evaluation.wer, default=None)

    @property
    def best_wer(self) -> float:
        """The lowest word error rate; infinite before the first evaluation."""
        return self.best.wer if self.best else float("inf")

    @property
    def rank(self) -> tuple[float, float, int]:
        """Lower is better: by word error rate, of equals by loss."""
        loss = self.best.loss if self.best else None
        return self.best_wer, float("inf") if loss is None else loss, self.number

    @property
    def seconds(self) -> float:
        """Of all attempts, with their start-up."""
        return sum((attempt.last_s or attempt.started_s) - attempt.started_s for attempt in self.attempts)

    @property
    def training_seconds(self) -> float:
        """Of all attempts, from when the workers were ready."""
        return sum(
            attempt.last_s - attempt.built_s
            for attempt in self.attempts
            if attempt.last_s is not None and attempt.built_s is not None
        )

    def with_evaluation(self, evaluation: Evaluation) -> Self:
        """With one more; one of the same step is the same one again, after a restart."""
        others = [other for other in self.evaluations if other.step != evaluation.step]
        return replace(self, evaluations=tuple(sorted([*others, evaluation], key=lambda item: item.step)))

    def with_attempt(self, **changes: float) -> Self:
        """With changes to its latest attempt."""
        return replace(self, attempts=(*self.attempts[:-1], replace(self.attempts[-1], **changes)))


@dataclass
class Records:
    """All trials of a sweep, and the folder that keeps them.

    Args:
        output: Folder of the sweep.
    """

    output: str
    by_number: dict[int, TrialRecord] = field(default_factory=dict)

    def load(self) -> None:
        """Take what the folder has.

        Raises:
            DataError: A record cannot be read; names it.
        """
        root = object_store.join(self.output, TRIALS)
        for name in sorted(object_store.list_folders(root)):
            uri = object_store.join(root, name, RECORD_FILE)
            if object_store.exists(uri):
                record = _parse(object_store.read_bytes(uri), uri)
                self.by_number[record.number] = record

    def put(self, record: TrialRecord) -> None:
        """Keep a record."""
        self.by_number[record.number] = record
        uri = object_store.join(trial_folder(self.output, record.number), RECORD_FILE)
        object_store.write_bytes(uri, json.dumps(asdict(record), indent=1).encode())

    def __iter__(self) -> Iterator[TrialRecord]:
        return iter(sorted(self.by_number.values(), key=lambda record: record.number))

    def __len__(self) -> int:
        return len(self.by_number)

    def lineage(self, record: TrialRecord) -> list[TrialRecord]:
        """A trial and those whose weights it went on from, the first one first."""
        found = [record]
        while found[0].parent is not None:
            found.insert(0, self.by_number[found[0].parent])
        return found

    @property
    def best(self) -> TrialRecord | None:
        """Of the trials without error the one with the lowest word error rate; of equals, the lowest loss."""
        candidates = [record for record in self if record.best and record.status != "failed"]
        return min(candidates, key=lambda record: record.rank, default=None)


def trial_folder(output: str, number: int) -> str:
    """Where a trial's run lies."""
    return object_store.join(output, TRIALS, f"{number:04d}")


def write_results(records: Records) -> str:
    """Write `results.parquet`: a row per trial with settings, figures and learning curve; returns where."""
    keys = list(dict.fromkeys(key for record in records for key in record.params))
    rows = []
    for record in records:
        row: dict[str, Any] = {"trial": record.number, "status": record.status, "error": record.error}
        row |= {key: record.params.get(key) for key in keys}
        row |= {
            "wer": record.best.wer if record.best else None,
            "epoch_of_best": record.best.epoch if record.best else None,
            "last_wer": record.evaluations[-1].wer if record.evaluations else None,
            "epochs": record.evaluations[-1].epoch if record.evaluations else 0,
            "steps": record.evaluations[-1].step if record.evaluations else 0,
            "seconds": record.seconds,
            "training_seconds": record.training_seconds,
            "attempts": len(record.attempts),
            "parent": record.parent,
            "num_parameters": record.num_parameters,
            "curve": [asdict(evaluation) for evaluation in record.evaluations],
        }
        rows.append(row)
    uri = object_store.join(records.output, RESULTS_FILE)
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([_one_type(row, rows) for row in rows]), buffer)
    object_store.write_bytes(uri, buffer.getvalue().to_pybytes())
    return uri


def _one_type(row: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Columns have one type in Parquet: settings of several types become text, whole numbers beside others floats."""
    result = dict(row)
    for key, value in row.items():
        kinds = {type(other[key]) for other in rows if other.get(key) is not None}
        if len(kinds) > 1 and value is not None:
            result[key] = float(value) if kinds <= {int, float} else str(value)
    return result


def _parse(data: bytes, uri: str) -> TrialRecord:
    try:
        values = json.loads(data)
        values["evaluations"] = tuple(Evaluation(**item) for item in values["evaluations"])
        values["attempts"] = tuple(Attempt(**item) for item in values["attempts"])
        return TrialRecord(**values)
    except (ValueError, TypeError, KeyError, StorageError) as error:
        raise DataError(
            f"{uri} is not the record of a trial: {error}. Delete it to run that trial again from its checkpoint"
        ) from error
