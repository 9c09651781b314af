"""The events of a small run, as the loop reports them."""

from typing import Any

from jasper_ray.training.report import EventKind, Reporter


def progress(epoch: int, step: int, loss: float | None = 3.0) -> tuple[EventKind, dict[str, Any]]:
    figures = {
        "epoch": epoch, "epochs": 2, "step": step, "steps_in_epoch": 2, "global_step": 2 * (epoch - 1) + step,
        "total_steps": 4, "loss": loss, "lr": 0.01, "grad_norm": 1.5, "step_s": 0.5, "utterances_per_s": 8.0,
        "audio_s_per_s": 20.0, "padding_share": 0.1, "loader_wait_share": 0.02, "skipped_steps": 0, "memory_gb": 2.0,
    }  # fmt: skip
    return "progress", figures


def evaluation(step: int, wer: float) -> tuple[EventKind, dict[str, Any]]:
    figures = {"wer": wer, "cer": wer / 2, "loss": 1.5, "global_step": step, "epoch": step // 2, "took_s": 0.25}
    return "evaluation", {**figures, "plain_wer": wer + 0.1, "plain_loss": 2.0, "best_wer": wer}


EVENTS: list[tuple[EventKind, dict[str, Any]]] = [
    ("start", {"name": "r", "global_step": 0}),
    progress(1, 1),
    ("sample", {"global_step": 1, "reference": "a b", "hypothesis": "a", "wer": 0.5}),
    progress(1, 2, 1.0),
    evaluation(2, 0.5),
    ("saving", {"global_step": 2}),
    ("checkpoint", {"global_step": 2, "uri": "u", "took_s": 1.0, "stalled_s": 0.1}),
    progress(2, 1, None),
    progress(2, 2),
    evaluation(4, 0.25),
    ("end", {"global_step": 4, "wer": 0.25}),
]


def tell(reporter: Reporter, events: list[tuple[EventKind, dict[str, Any]]] = EVENTS) -> None:
    for kind, values in events:
        reporter.report(kind, values)
