"""Trials as a sweep would have written them down."""

from collections.abc import Sequence

from jasper_ray.config.schema import RunConfig
from tuning.records import Attempt, Evaluation, Records, Status, TrialRecord
from tuning.settings import Dimension
from tuning.spaces import Params, Space

BEGAN_S = 1_000_000.0


def make_space(**rules: dict[str, object]) -> Space:
    dimensions = {key.replace("__", "."): Dimension.model_validate(rule) for key, rule in rules.items()}
    return Space(dimensions, RunConfig(), source="s.yaml")


def trial(
    number: int, params: Params, wers: Sequence[float], status: Status = "finished", error: str = ""
) -> TrialRecord:
    """One epoch takes a minute, getting ready ten seconds."""
    began_s = BEGAN_S + 100 * number
    evaluations = tuple(
        Evaluation(epoch, 10 * epoch, wer, 5 * wer, began_s + 10 + 60 * epoch, words=200)
        for epoch, wer in enumerate(wers, 1)
    )
    last_s = began_s + 10 + 60 * len(wers)
    attempt = Attempt(began_s, first_step_s=began_s + 11, built_s=began_s + 10, last_s=last_s)
    return TrialRecord(number, params, status, error, evaluations, (attempt,), num_parameters=7, workers=2)


def keep(output: object, *trials: TrialRecord) -> Records:
    records = Records(str(output))
    for record in trials:
        records.put(record)
    return records
