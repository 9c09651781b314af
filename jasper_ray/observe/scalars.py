"""The figures of a run's events under the names that boards show."""

from collections.abc import Iterator, Mapping

from jasper_ray.training.report import EventKind

TRAIN = (
    "loss", "lr", "grad_norm", "step_s", "utterances_per_s", "audio_s_per_s", "padding_share", "loader_wait_share",
    "skipped_steps", "memory_gb",
)  # fmt: skip
EVALUATION = ("wer", "cer", "loss", "plain_wer", "plain_loss", "best_wer", "took_s")


def scalars(kind: EventKind, values: Mapping[str, object]) -> Iterator[tuple[str, float]]:
    """Name and value of each figure of an event; `train/...` or `evaluation/...`."""
    if kind == "progress":
        yield from _numbers("train", TRAIN, values)
    elif kind == "evaluation":
        yield from _numbers("evaluation", EVALUATION, values)
    elif kind == "sample":
        yield from _numbers("train", ("wer",), values)
    elif kind == "checkpoint":
        yield from _numbers("checkpoint", ("took_s", "stalled_s"), values)


def step_of(values: Mapping[str, object]) -> int:
    """The global step of an event; 0 for one without."""
    step = values.get("global_step", 0)
    return step if isinstance(step, int) else 0


def _numbers(prefix: str, keys: tuple[str, ...], values: Mapping[str, object]) -> Iterator[tuple[str, float]]:
    for key in keys:
        value = values.get(key)
        if isinstance(value, int | float):
            yield f"{prefix}/{key}", float(value)
