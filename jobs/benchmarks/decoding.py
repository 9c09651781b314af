"""Beam search beside greedy decoding on a model's own log-probabilities: utterances per second of one core."""

import argparse
import contextlib
import datetime
import itertools
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from jasper_ray.config.data import DatasetConfig
from jasper_ray.config.decoding import DecodingConfig
from jasper_ray.decoding.decoder import BeamSearch, GreedyDecoder
from jasper_ray.model.bundle import load_bundle
from jasper_ray.storage import object_store
from jasper_ray.text.alphabet import Alphabet
from jasper_ray.text.wer import count_errors
from jasper_ray.training.assembly import read_datasets
from jobs.benchmarks.timing import Work, rates, run_in_turn
from jobs.log_probs import compute_log_probs

GREEDY = "greedy"
PASSES_OF_GREEDY = 20
"""Greedy decoding of a few utterances is too short to be timed."""


def add_decoding_benchmark(parser: argparse.ArgumentParser) -> None:
    """The options of the part."""
    parser.add_argument("bundle", help="folder of the bundle")
    parser.add_argument("datasets", nargs="+", metavar="DATASET", help="prepared datasets")
    parser.add_argument("--language-model", metavar="FOLDER", help="n-grams; without, the search has none")
    parser.add_argument("--beam-widths", type=int, nargs="+", default=[1, 4, 8, 16, 32, 64, 128, 256], metavar="N")
    parser.add_argument("--tokens", type=int, nargs="+", default=[0, 10], metavar="N", help="tokens_per_frame; 0: all")
    parser.add_argument("--lm-weight", type=float, default=1.0)
    parser.add_argument("--word-bonus", type=float, default=0.0)
    parser.add_argument("--utterances", type=int, default=50, help="at most so many (default 50)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds after a warm-up (default 3)")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="also write DATE-decoding.md here")


def measure_decoding(arguments: argparse.Namespace, say: Callable[[str], None]) -> Mapping[str, Any]:
    """Decode the same utterances in turn with greedy decoding and every beam width."""
    torch.set_num_threads(1)
    manifest = read_datasets([DatasetConfig(path=path) for path in arguments.datasets], key="DATASET")
    manifest = manifest.select(np.arange(min(arguments.utterances, len(manifest))))
    bundle = load_bundle(arguments.bundle)
    say(f"log-probabilities of {len(manifest)} utterances")
    utterances = compute_log_probs(bundle, manifest, device="cpu", threads=1)
    measured = _measure(arguments, bundle.alphabet, utterances, manifest.texts, say)
    figures = {
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["python -m jobs.benchmark", *sys.argv[1:]]),
        "machine": f"{os.cpu_count()} x {_processor()}; load average at the end {os.getloadavg()[0]:.1f}",
        "utterances": len(manifest),
        "audio_s": float(manifest.durations_s.sum()),
        "frames": int(sum(map(len, utterances))),
        "language_model": arguments.language_model,
        "rounds": arguments.rounds,
        "decoders": measured,
    }
    if arguments.write is not None:
        arguments.write.mkdir(parents=True, exist_ok=True)
        page = arguments.write / f"{figures['date']}-decoding.md"
        page.write_text("\n".join(_page(figures)) + "\n")
        say(f"written: {page}")
    return figures


def _measure(
    arguments: argparse.Namespace,
    alphabet: Alphabet,
    utterances: Sequence[np.ndarray],
    references: Sequence[str],
    say: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
    """Rates and word error rates of all decoders, by name, over the same log-probabilities."""
    texts: dict[str, list[str]] = {}
    greedy = GreedyDecoder(alphabet)

    def decode_greedily(_: int) -> float:
        for _ in range(PASSES_OF_GREEDY):
            texts[GREEDY] = [
                greedy.texts(torch.from_numpy(one)[None], torch.tensor([len(one)]))[0] for one in utterances
            ]
        return float(PASSES_OF_GREEDY * len(utterances))

    def decode(name: str, search: BeamSearch, _: int) -> float:
        texts[name] = [found[0].text for found in search.search(utterances)]
        return float(len(utterances))

    contenders: dict[str, Work] = {GREEDY: decode_greedily}
    with contextlib.ExitStack() as searches:
        for tokens, width in itertools.product(arguments.tokens, arguments.beam_widths):
            name = f"{width}, {tokens or 'all'}"
            search = BeamSearch(alphabet, _config(arguments, width=width, tokens=tokens))
            searches.callback(search.close)
            contenders[name] = partial(decode, name, search)
            say(f"loaded: width and tokens per frame {name}")
        measured = rates(run_in_turn(contenders, arguments.rounds))
    for name, rate in measured.items():
        errors = count_errors(references, texts[name])
        rate |= {"wer": errors.wer, "times_greedy": measured[GREEDY]["per_cpu_s"] / rate["per_cpu_s"]}
    return measured


def _config(arguments: argparse.Namespace, *, width: int, tokens: int) -> DecodingConfig:
    model = arguments.language_model
    return DecodingConfig(
        method="beam",
        language_model=object_store.absolute(model) if model else None,
        lexicon=model is not None,
        beam_width=width,
        tokens_per_frame=tokens or None,
        lm_weight=arguments.lm_weight,
        word_bonus=arguments.word_bonus if model else 0.0,
    )


def _page(figures: Mapping[str, Any]) -> Sequence[str]:
    audio_s = figures["audio_s"] / figures["utterances"]
    lm = figures["language_model"]
    with_model = f"with the n-grams of `{lm}`" if lm else "without n-grams"
    lines = [
        f"# Beam search beside greedy decoding, {figures['date']}",
        "",
        f"    {figures['command']}",
        "",
        f"{figures['machine']}. One process, one thread. {figures['utterances']} utterances of real speech, "
        f"{audio_s:.1f} s each ({figures['frames']:,} encoder frames in all), log-probabilities computed before; "
        f"search {with_model}. In turn, {figures['rounds']} rounds; medians per second of processor time, "
        "so that other work on the machine disturbs little.",
        "",
        "| beam width, tokens per frame | utterances per core-second | seconds of audio per core-second | ms per "
        "utterance | times greedy's time | WER |",
        "|---|---|---|---|---|---|",
    ]
    for name, rate in figures["decoders"].items():
        per_s = rate["per_cpu_s"]
        cells = [
            name,
            f"{per_s:,.1f}",
            f"{per_s * audio_s:,.0f}",
            f"{1000 / per_s:,.2f}",
            f"{rate['times_greedy']:,.0f}",
            f"{rate['wer']:.1%}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
