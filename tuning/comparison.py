"""Two sweeps side by side: what they found, and how soon."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import yaml

from jasper_ray.config.schema import RunConfig
from jasper_ray.errors import DataError
from jasper_ray.storage import object_store
from tuning.charts import Curve, learning_curves
from tuning.page import page
from tuning.records import Records
from tuning.results import SweepFigures, sweep_figures
from tuning.runner import RUN_FILE, SWEEP_FILE
from tuning.spaces import describe


@dataclass(frozen=True)
class SavedSweep:
    """A sweep as its folder has it."""

    uri: str
    records: Records
    settings: dict[str, Any]
    run: RunConfig

    @property
    def figures(self) -> SweepFigures:
        """Counts and times; the share of the cluster is not known afterwards."""
        return sweep_figures(self.records, self.run, {})

    def best_so_far(self) -> list[tuple[float, float]]:
        """Hours in which trials had run, all together, and the lowest word error rate (%) that was known then."""
        spent: dict[int, float] = {}
        best, points = float("inf"), []
        events = sorted(
            (item.time_s, record.number, item.wer) for record in self.records for item in record.evaluations
        )
        for time_s, number, wer in events:
            attempts = self.records.by_number[number].attempts
            spent[number] = sum(
                max(0.0, min(time_s, attempt.last_s or time_s) - attempt.started_s) for attempt in attempts
            )
            best = min(best, wer)
            points.append((sum(spent.values()) / 3600, 100 * best))
        return points


def read_sweep(uri: str) -> SavedSweep:
    """Read a sweep's folder.

    Raises:
        DataError: It is not the folder of a sweep, or no trial of it was evaluated.
    """
    sweep_uri = object_store.join(uri, SWEEP_FILE)
    if not object_store.exists(sweep_uri):
        raise DataError(f"{uri} is not the folder of a sweep: it has no {SWEEP_FILE}. Give OUTPUT/sweeps/NAME")
    records = Records(uri)
    records.load()
    if records.best is None:
        raise DataError(f"{uri}: no trial was evaluated, there is nothing to compare")
    settings = yaml.safe_load(object_store.read_bytes(sweep_uri))
    run = RunConfig.model_validate(yaml.safe_load(object_store.read_bytes(object_store.join(uri, RUN_FILE))))
    return SavedSweep(uri, records, settings, run)


def compare_sweeps(sweeps: Sequence[SavedSweep]) -> dict[str, Any]:
    """Figures of both.

    Raises:
        DataError: They were judged on other data.
    """
    first, second = sweeps
    paths = [[dataset.path for dataset in sweep.run.data.evaluation] for sweep in sweeps]
    if paths[0] != paths[1]:
        raise DataError(
            f"{first.uri} was judged on {', '.join(paths[0])} and {second.uri} on {', '.join(paths[1])}: "
            "their word error rates do not compare"
        )
    found = [_summary(sweep) for sweep in sweeps]
    return {
        "sweeps": found,
        "wer_difference": found[1]["best_wer"] - found[0]["best_wer"],
        "one_word": found[0]["one_word"],
        "trial_hours_difference": found[1]["trial_hours"] - found[0]["trial_hours"],
    }


def comparison_page(sweeps: Sequence[SavedSweep], result: dict[str, Any]) -> str:
    """The same as a page."""
    names = [sweep.settings["name"] for sweep in sweeps]
    curves = [
        Curve(name, sweep.best_so_far(), goodness, name)
        for name, sweep, goodness in zip(names, sweeps, (1.0, 0.3), strict=True)
    ]
    rows = []
    for key, text in (
        ("uri", "folder"),
        ("search", "search"),
        ("best_wer", "best word error rate"),
        ("best_trial", "by trial"),
        ("best_params", "with"),
        ("num_trials", "trials"),
        ("by_status", "of these"),
        ("hours", "hours"),
        ("trial_hours", "hours of all trials"),
    ):
        cells = "".join(f"<td>{escape(_cell(key, entry[key]))}</td>" for entry in result["sweeps"])
        rows.append(f"<tr><td>{text}</td>{cells}</tr>")
    heads = "".join(f"<th>{escape(name)}</th>" for name in names)
    difference = result["wer_difference"]
    body = [
        f"<h1>{escape(' and '.join(names))}</h1>",
        f"<p>{escape(names[1])} ends {abs(difference):.2%} {'below' if difference < 0 else 'above'} "
        f"{escape(names[0])}{_grain(result['one_word'])}.</p>",
        f"<div class='wide'><table><tr><th></th>{heads}</tr>{''.join(rows)}</table></div>",
        "<h2>How soon</h2>",
        learning_curves(curves, y_label="best WER so far (%)", x_label="hours of all trials together"),
        "<p class='soft'>The lowest word error rate in % that was known after so many hours of trials.</p>",
    ]
    return page(" and ".join(names), body)


def _summary(sweep: SavedSweep) -> dict[str, Any]:
    best, figures = sweep.records.best, sweep.figures
    assert best is not None and best.best is not None
    return {
        "uri": sweep.uri,
        "name": sweep.settings["name"],
        "search": f"{sweep.settings['search']}, {sweep.settings['scheduler']}",
        "best_trial": best.number,
        "best_wer": best.best_wer,
        "best_params": best.params,
        "num_trials": figures.num_trials,
        "by_status": figures.by_status,
        "hours": figures.hours,
        "trial_hours": figures.trial_hours,
        "one_word": 1 / best.best.words if best.best.words else None,
    }


def _cell(key: str, value: Any) -> str:
    if key == "best_wer":
        return f"{value:.2%}"
    if key == "best_params":
        return describe(value)
    if isinstance(value, dict):
        return ", ".join(f"{count} {name}" for name, count in value.items())
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _grain(one_word: float | None) -> str:
    return f"; one word more or less is {one_word:.2%}" if one_word else ""
