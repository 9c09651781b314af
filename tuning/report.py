"""`report.html` and `results.parquet` of a sweep."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from typing import Any

from jasper_ray.config.schema import RunConfig
from jasper_ray.storage import object_store
from tuning.charts import Axis, Curve, bars, heat_map, learning_curves, parallel_coordinates
from tuning.importance import importances
from tuning.page import page
from tuning.records import Evaluation, Records, TrialRecord, write_results
from tuning.results import SweepFigures, export_best, sweep_figures
from tuning.scheduling import rungs
from tuning.settings import SweepConfig
from tuning.spaces import ACCUMULATION, MICROBATCHES, Space, describe

REPORT_FILE = "report.html"
ABOUT_ACCUMULATION = """
<p>Gradients are summed over the utterances of all micro-batches of a step and divided by their number, so accumulation
itself changes nothing: the same micro-batches on 4, 2 or 1 workers (accumulation 1, 2, 4) give the same loss curve up
to rounding. Trials with other accumulation on the <em>same</em> number of workers have other micro-batches, and there
curves must differ, for these reasons:</p><ul>
<li>Batch norm, while it trains, normalises over one micro-batch: smaller micro-batches are noisier statistics.</li>
<li>Dropout is drawn per micro-batch.</li>
<li>With <code>batching.policy=seconds</code> or <code>packed</code> the size of micro-batches decides which utterances
share a step; with <code>fixed</code> the utterances of a step stay the same at a constant global batch, as long as an
epoch comes to whole steps.</li>
<li>Where micro-batches stay as they are, more of them are a larger global batch and fewer updates per epoch.</li></ul>
"""


def write_report(
    records: Records,
    space: Space,
    sweep: SweepConfig,
    config: RunConfig,
    *,
    output: str,
    cluster_resources: dict[str, float],
) -> dict[str, Any]:
    """Write everything that a sweep leaves behind.

    Returns:
        The sweep's figures and where things lie.
    """
    figures = sweep_figures(records, config, cluster_resources)
    best = records.best
    results_uri = write_results(records)
    page = sweep_page(records, space, sweep, config, figures)
    report_uri = object_store.join(output, REPORT_FILE)
    object_store.write_bytes(report_uri, page.encode())
    summary: dict[str, Any] = {"name": sweep.name, "output": output, **asdict(figures)}
    if best is not None and best.best is not None:
        summary |= {"best_trial": best.number, "best_wer": best.best_wer, "best_params": best.params}
        summary["best_lineage"] = [record.number for record in records.lineage(best)]
        summary |= export_best(best, space, output=output)
    return {**summary, "report": report_uri, "results": results_uri}


def sweep_page(records: Records, space: Space, sweep: SweepConfig, config: RunConfig, figures: SweepFigures) -> str:
    """The whole page, with nothing from elsewhere."""
    ranked = sorted((r for r in records if r.best), key=lambda r: r.rank)
    goodness = goodness_by_rank(ranked)
    stops = ", ".join(map(str, rungs(sweep, epochs=config.training.epochs)))
    scheduler = f"trials are compared after epoch {stops}" if stops else "no trial is stopped early"
    if sweep.search == "pbt":
        scheduler = f"the worst members are replaced after every {sweep.pbt.interval_epochs} epochs"
    body = [
        f"<h1>{escape(sweep.name)}: {escape(config.name)}</h1>",
        _headline(records, figures),
        f"<p class='soft'>{escape(sweep.search)} search, {scheduler}; word error rates are of data.evaluation.</p>",
        _best(records),
        "<h2>Learning curves</h2>",
        learning_curves(_curves(ranked, goodness, "wer"), y_label="word error rate (%)"),
        "<p class='soft'>Word error rate in %, yellow is best; names are of the best twelve.</p>",
        learning_curves(_curves(ranked, goodness, "loss"), y_label="loss", log=True),
        "<p class='soft'>CTC loss per utterance on data.evaluation, in nats, logarithmic.</p>",
        *_settings_charts(ranked, goodness, space, sweep),
        f"<h2>Accumulation</h2>{ABOUT_ACCUMULATION}" if {ACCUMULATION, MICROBATCHES} & set(space.searched) else "",
        "<h2>Trials</h2>",
        trial_table(records),
    ]
    return page(f"{sweep.name}: {config.name}", body)


def goodness_by_rank(ranked: Sequence[TrialRecord]) -> dict[int, float]:
    """By trial number, 1 for the best down to 0 for the worst."""
    return {record.number: 1 - place / max(1, len(ranked) - 1) for place, record in enumerate(ranked)}


def trial_table(records: Records) -> str:
    """Every trial with its settings, best first."""
    keys = list(dict.fromkeys(key for record in records for key in record.params))
    heads = ("trial", "status", "best WER", "at epoch", "epochs", "minutes", *keys, "reason")
    rows = []
    for record in sorted(records, key=lambda record: record.rank):
        best, last = record.best, record.evaluations[-1] if record.evaluations else None
        cells = [
            str(record.number),
            record.status,
            f"{best.wer:.2%}" if best else "",
            str(best.epoch) if best else "",
            str(last.epoch) if last else "",
            f"{record.seconds / 60:.1f}",
            *(_cell(record.params.get(key, "")) for key in keys),
            record.error,
        ]
        numeric = {0, *range(2, 6 + len(keys))}
        tags = "".join(f"<td{' class=n' if n in numeric else ''}>{escape(c)}</td>" for n, c in enumerate(cells))
        rows.append(f"<tr{' class=best' if record is records.best else ''}>{tags}</tr>")
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    return f"<div class='wide'><table><tr>{head}</tr>{''.join(rows)}</table></div>"


def _headline(records: Records, figures: SweepFigures) -> str:
    best = records.best
    cells = [
        ("best word error rate", f"{best.best_wer:.2%}" if best else "none"),
        ("trials", str(figures.num_trials)),
        *((name, str(count)) for name, count in figures.by_status.items()),
        ("hours", f"{figures.hours:.2f}"),
    ]
    if figures.start_to_first_step_s is not None:
        cells.append(("from start to first steps", f"{figures.start_to_first_step_s:.1f} s"))
    if figures.training_share is not None:
        cells.append(("of the cluster's time was training", f"{figures.training_share:.0%}"))
    return "<div class='figures'>" + "".join(f"<div><b>{v}</b>{escape(n)}</div>" for n, v in cells) + "</div>"


def _best(records: Records) -> str:
    record = records.best
    if record is None:
        return "<p>No trial came to an evaluation.</p>"
    assert record.best is not None
    settings = escape(describe(record.params))
    return (
        f"<p>Best is trial {record.number} after epoch {record.best.epoch}: <code>{settings}</code><br>"
        "Train it whole: <code>python -m jobs.train best/config.yaml</code>; its weights are in "
        f"<code>best/bundle</code>. {_grain(record.best)}</p>{_lineage(records.lineage(record))}"
    )


def _grain(best: Evaluation) -> str:
    return f"One word more or less is {1 / best.words:.2%}." if best.words else ""


def _lineage(trials: Sequence[TrialRecord]) -> str:
    """What a population did on the way to its best member: settings that no single run has had."""
    if len(trials) < 2:
        return ""
    items = [
        f"<li>trial {r.number}, to epoch {r.until_epoch}: <code>{escape(describe(r.params))}</code></li>"
        for r in trials
    ]
    return (
        "<p>These weights had other settings on the way, so a run with the last ones from the beginning may end "
        f"elsewhere:</p><ol>{''.join(items)}</ol>"
    )


def _curves(ranked: Sequence[TrialRecord], goodness: Mapping[int, float], key: str) -> list[Curve]:
    curves = []
    for record in ranked:
        pairs = [(item.epoch, item.wer * 100 if key == "wer" else item.loss) for item in record.evaluations]
        points = [(float(epoch), float(value)) for epoch, value in pairs if value is not None]
        curves.append(Curve(str(record.number), points, goodness[record.number], _note(record)))
    return curves


def _settings_charts(
    ranked: Sequence[TrialRecord], goodness: Mapping[int, float], space: Space, sweep: SweepConfig
) -> list[str]:
    if len(ranked) < 2:
        return ["<p class='soft'>Charts of settings need two trials.</p>"]
    keys = [key for key in space.searched if any(key in record.params for record in ranked)]
    axes = [Axis(key, [r.params.get(key) for r in ranked], _is_log(space, key)) for key in keys]
    rates = [record.best_wer for record in ranked]
    wer_axis = Axis("best WER (%)", [100 * rate for rate in rates])
    notes = [_note(record) for record in ranked]
    shares = importances(ranked, space)
    parts = [
        "<h2>Settings</h2>",
        parallel_coordinates([*axes, wer_axis], [goodness[r.number] for r in ranked], notes),
        "<p class='soft'>A line per trial, yellow is best.</p>",
    ]
    pair = _pair(keys, shares)
    if pair:
        chosen = [r for r in ranked if all(key in r.params for key in pair)]
        columns, rows = (Axis(key, [r.params[key] for r in chosen], _is_log(space, key)) for key in pair)
        if chosen:
            parts += [
                f"<h2>{escape(pair[0])} × {escape(pair[1])}</h2>",
                heat_map(columns, rows, [r.best_wer for r in chosen]),
                "<p class='soft'>Lowest word error rate of each cell. Trials that were stopped early count with what "
                "they had reached by then.</p>",
            ]
    if shares:
        parts += [
            "<h2>Importance</h2>",
            bars(shares),
            f"<p class='soft'>PED-ANOVA (Watanabe et al. 2023): how much a setting decides whether a trial is among "
            f"the better half, over {len(ranked)} trials"
            f"{'; with so few it is a hint at most' if len(ranked) < 20 else ''}.</p>",
        ]
    return parts


def _pair(keys: Sequence[str], shares: Sequence[tuple[str, float]]) -> tuple[str, str] | None:
    """Learning rate and accumulation where both are searched, else the two that matter most."""
    if "optimizer.lr" in keys and ACCUMULATION in keys:
        return "optimizer.lr", ACCUMULATION
    first = [name for name, _ in shares] or list(keys)
    return (first[0], first[1]) if len(first) > 1 else None


def _is_log(space: Space, key: str) -> bool:
    """Also for listed values of which the highest is ten times the lowest or more."""
    rule = space.searched[key]
    numbers = [v for v in rule.values or () if isinstance(v, int | float) and not isinstance(v, bool)]
    listed = len(numbers) == len(rule.values or ()) > 1 and min(numbers) > 0 and max(numbers) >= 10 * min(numbers)
    return rule.loguniform is not None or listed


def _note(record: TrialRecord) -> str:
    return f"trial {record.number}, {record.status}, best WER {record.best_wer:.2%}: {describe(record.params)}"


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
