"""How long the report of an evaluation takes, and how large its page is without recordings."""

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jasper_ray.decoding.alignment import WordSpan
from jasper_ray.decoding.confidence import Calibration
from jasper_ray.observe.evaluation_page import Clip, evaluation_page
from jasper_ray.observe.evaluation_report import Judged, evaluation_report

WORDS_PER_UTTERANCE = 35
VOCABULARY = 5000
WRONG = 0.12
WAVE_POINTS = 360


def add_report_benchmark(parser: argparse.ArgumentParser) -> None:
    """The options of the part."""
    parser.add_argument("--utterances", type=int, default=10_000, help="default 10000")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="keep report.html and report.json here")


def measure_report(arguments: argparse.Namespace, say: Callable[[str], None]) -> Mapping[str, Any]:
    """Make the report of an evaluation with invented texts, compared with another, its waveforms, no recordings."""
    rng = np.random.default_rng(0)
    count = arguments.utterances
    references = [_words(rng, int(rng.integers(5, 2 * WORDS_PER_UTTERANCE - 5))) for _ in range(count)]
    hypotheses, others = ([_misheard(rng, words) for words in references] for _ in range(2))
    ids = [f"utterance-{number:06d}" for number in range(count)]
    judged = Judged(
        ids=ids,
        references=[" ".join(words) for words in references],
        hypotheses=[" ".join(words) for words in hypotheses],
        speakers=[f"speaker-{number % 200}" for number in range(count)],
        durations_s=np.array([0.35 * len(words) for words in references]),
        datasets=[f"dataset-{number % 3}" for number in range(count)],
        snr_db=rng.uniform(0, 50, count),
        words=[_spans(rng, words) for words in hypotheses],
        calibration=Calibration(scale=1.0, entropy_weight=-1.0, offset=0.0, num_words=1),
    )
    say(f"{sum(map(len, references)):,} words invented")
    started_s, started_cpu_s = time.perf_counter(), time.process_time()
    other = {name: " ".join(words) for name, words in zip(ids, others, strict=True)}
    report = evaluation_report(
        judged, title=f"{count} invented utterances", other=other, other_name="another recogniser"
    )
    clips = {item.id: Clip(rng.uniform(size=WAVE_POINTS).tolist(), _spans(rng, ["word"] * 35)) for item in report.worst}
    page, figures = evaluation_page(report, clips).encode(), report.json()
    took_s, took_cpu_s = time.perf_counter() - started_s, time.process_time() - started_cpu_s
    if arguments.write is not None:
        arguments.write.mkdir(parents=True, exist_ok=True)
        (arguments.write / "report.html").write_bytes(page)
        (arguments.write / "report.json").write_bytes(figures)
    return {
        "utterances": count,
        "words": report.words["references"],
        "wer": report.wer.rate,
        "seconds": took_s,
        "cpu_seconds": took_cpu_s,
        "page_mb": len(page) / 1e6,
        "json_mb": len(figures) / 1e6,
    }


def _words(rng: np.random.Generator, count: int) -> list[str]:
    # Zipf's law: a few words make up most of a text.
    return [f"word{min(int(number), VOCABULARY)}" for number in rng.zipf(1.3, count)]


def _misheard(rng: np.random.Generator, words: list[str]) -> list[str]:
    heard = []
    for word in words:
        kind = rng.uniform() / WRONG
        if kind >= 1 or kind < 0.6:
            heard.append(word if kind >= 1 else f"word{rng.integers(VOCABULARY)}")
        if 0.6 <= kind < 0.8:
            heard += [word, "the"]
    return heard


def _spans(rng: np.random.Generator, words: list[str]) -> list[WordSpan]:
    confidences, entropies = rng.uniform(0.3, 1, len(words)), rng.uniform(0, 0.4, len(words))
    return [
        WordSpan(word, 0.35 * number, 0.35 * number + 0.3, float(confidences[number]), float(entropies[number]))
        for number, word in enumerate(words)
    ]
