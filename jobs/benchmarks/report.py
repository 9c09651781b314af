"""Figures of the loader benchmark as JSON and as a page."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jobs.benchmarks.position import OURS


def write_report(figures: Mapping[str, Any], folder: Path) -> Path:
    """`DATE-loader.json` and `DATE-loader.md` in a folder; returns the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{figures['date']}-{figures['benchmark']}"
    (folder / f"{stem}.json").write_text(json.dumps(figures, indent=1) + "\n")
    page = folder / f"{stem}.md"
    page.write_text("\n".join(_page(figures)) + "\n")
    return page


def _page(figures: Mapping[str, Any]) -> Iterator[str]:
    corpus, hardware = figures["corpus"], figures["hardware"]
    yield f"# Loaders, {figures['date']}"
    yield ""
    yield (
        f"{corpus['utterances']} utterances ({corpus['encoding']}; {corpus['hours']:.1f} h,"
        f" {corpus['megabytes']:.0f} MB; {corpus['speech']}), in everybody's own format,"
        f" files in memory, one process, one thread, in turn, {figures['rounds']} rounds. Rates are medians per second"
        " of processor time (all threads of the process); ratios are medians of the rounds' own ratios."
    )
    yield ""
    load = hardware["load_average_at_the_end"]
    yield f"{hardware['cpus']} x {hardware['cpu']}, GPU: {hardware['gpu']}; load average at the end {load:.1f}."
    yield ", ".join(f"{name} {number}" for name, number in figures["versions"].items()) + "."
    yield ""
    yield f"Again: `{figures['command']}` ([how](README.md))."
    if figures["absent"]:
        yield ""
        yield "Absent: " + "; ".join(f"{name} ({reason})" for name, reason in figures["absent"].items()) + "."
    yield from _reading(figures)
    yield from _features(figures)
    yield from _position(figures)
    yield from _waiting(figures)
    yield from _targets(figures)


def _reading(figures: Mapping[str, Any]) -> Iterator[str]:
    reading = figures["reading"]
    yield from ("", "## Raw reading, shuffled: utterances per second", "")
    yield (
        "What is read is looked at in two ways: its length, first and last byte; or a byte of every 64, so that all of"
        " it has come from memory. `ShardReader` is this project's shard format alone (ids and transcripts are in"
        " memory), `UtteranceSource` is all that a loader is fed with: order of the plan, label ids, random draws."
    )
    yield ""
    yield "| reader | edges, per CPU-s | per wall-s | every line, per CPU-s | per wall-s |"
    yield "|---|---|---|---|---|"
    edges, lines = reading["edges"]["utterances"], reading["every line"]["utterances"]
    for name in edges:
        cells = [
            edges[name]["per_cpu_s"],
            edges[name]["per_wall_s"],
            lines[name]["per_cpu_s"],
            lines[name]["per_wall_s"],
        ]
        yield f"| {name} | " + " | ".join(f"{cell:,.0f}" for cell in cells) + " |"
    yield from ("", "| ratio | edges | every line |", "|---|---|---|")
    for name, value in reading["edges"]["ratios"].items():
        yield f"| {name} | {value:.1f} | {reading['every line']['ratios'][name]:.1f} |"


def _features(figures: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", "## Bytes to features, speed 0.85 to 1.15: seconds of audio per second", "")
    yield (
        f"{figures['feature_utterances']} of the utterances. NVIDIA's graph is without its trimming of silence and its"
        " SpecAugment."
    )
    yield from ("", "| loader | per CPU-s | per wall-s |", "|---|---|---|")
    for name, rate in figures["features"]["audio_s"].items():
        yield f"| {name} | {rate['per_cpu_s']:,.0f} | {rate['per_wall_s']:,.0f} |"
    yield from ("", "| ratio | |", "|---|---|")
    for name, value in figures["features"]["ratios"].items():
        yield f"| {name} | {value:.2f} |"


def _position(figures: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", "## A position in the middle of an epoch: milliseconds to its first bytes", "")
    yield "| | median | smallest | largest |"
    yield "|---|---|---|---|"
    for name, found in figures["position"].items():
        cells = (found["median_ms"], found["smallest_ms"], found["largest_ms"])
        yield f"| {name} | " + " | ".join(f"{cell:.3g}" for cell in cells) + " |"
    ours = figures["position"][OURS]
    yield ""
    yield (
        f"Over every step of the epoch: median {ours['every_step_median_ms']:.3g} ms, largest"
        f" {ours['every_step_largest_ms']:.3g} ms. Planning the epoch, once per epoch, takes another"
        f" {ours['planning_the_epoch_ms']:.3g} ms. WebDataset and Lhotse read and drop; StreamingDataset is given a"
        " state, and works out its order of the epoch again."
    )


def _waiting(figures: Mapping[str, Any]) -> Iterator[str]:
    waiting = figures["waiting"]
    yield from ("", "## Share of a step spent waiting for one loader thread", "")
    yield (
        f"The device is a sleep that takes {waiting['device_audio_s_per_s']:g} seconds of audio per second. Readers"
        " that make no features feed this project's torch loader (soxr HQ)."
    )
    yield from ("", "| loader | share of the step |", "|---|---|")
    for name, share in waiting["of_step"].items():
        yield f"| {name} | {share['share']:.1%} |"


def _targets(figures: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", "## Targets", "", "| what | target | measured | met |", "|---|---|---|---|")
    for target in figures["targets"]:
        bound = f">= {target['at_least']:g}" if "at_least" in target else f"<= {target['at_most']:g}"
        measured = "not measured" if target["measured"] is None else f"{target['measured']:.3g}"
        met = {True: "yes", False: "**no**", None: ""}[target["met"]]
        yield f"| {target['what']} | {bound} | {measured} | {met} |"
