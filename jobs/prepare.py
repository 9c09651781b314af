"""A corpus to a dataset of shards: `python -m jobs.prepare SOURCE TARGET`, or by `ray job submit` on all nodes."""

import argparse
import os
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from rich.table import Table

from jasper_ray.config.data import CorpusConfig, PreparationConfig
from jasper_ray.config.speech import ENGLISH_ALPHABET
from jasper_ray.data.manifest import MANIFEST_FILE
from jasper_ray.data.preparation import PreparationReport, Runner, in_this_process, prepare_dataset
from jasper_ray.data.readers.registry import FORMATS
from jasper_ray.errors import ConfigError
from jasper_ray.storage import object_store
from jasper_ray.text.alphabet import Alphabet
from jobs.downloading import fetch_corpus
from jobs.entry import console, run_job
from jobs.progress import ShardProgress

DEFAULTS = PreparationConfig()
KINDS: dict[type, str] = {int: "COUNT", float: "NUMBER", str: "PATTERN"}


def _prepare(arguments: argparse.Namespace) -> Mapping[str, Any]:
    started_s = time.monotonic()
    if arguments.threads is not None and arguments.threads < 1:
        raise ConfigError(f"--threads must be at least 1, got {arguments.threads}")
    try:
        Alphabet(arguments.alphabet)
        corpus = CorpusConfig(
            source=arguments.source,
            format=arguments.format,
            where=_selection(arguments.where),
            download_dir=arguments.download_dir,
            mirror=arguments.mirror,
            keep_archives=not arguments.delete_archives,
        )
        config = PreparationConfig(**{name: getattr(arguments, name) for name in PreparationConfig.model_fields})
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(details) for details in error.errors())) from error
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not object_store.exists(object_store.join(arguments.target, MANIFEST_FILE)):
        fetch_corpus(corpus, console)
    report = _run(arguments, corpus, config)
    _print(report, arguments.target)
    return {
        "target": arguments.target,
        "num_utterances": report.num_utterances,
        "hours": report.hours,
        "num_shards": report.num_shards,
        "num_shards_found": report.num_shards_found,
        "rejected": [{"id": r.id, "kind": r.kind, "reason": r.reason} for r in report.rejections],
        "reused": report.reused,
        "seconds": time.monotonic() - started_s,
    }


def _run(arguments: argparse.Namespace, corpus: CorpusConfig, config: PreparationConfig) -> PreparationReport:
    def prepare(run: Runner) -> PreparationReport:
        with ShardProgress(console) as progress:
            return prepare_dataset(
                [corpus],
                arguments.target,
                alphabet=arguments.alphabet,
                config=config,
                strict=arguments.strict,
                run=progress.watching(run),
            )

    where = arguments.on
    if where == "here" or (where == "auto" and not os.environ.get("RAY_ADDRESS")):
        return prepare(in_this_process(arguments.threads or 2))
    from jasper_ray.cluster.preparing import OnTheCluster
    from jasper_ray.cluster.trainer import connected_to_ray

    with connected_to_ray():
        return prepare(OnTheCluster(arguments.threads or 1))


def _explain(details: ErrorDetails) -> str:
    """One of pydantic's errors in terms of the command line."""
    message = details["msg"].removeprefix("Value error, ")
    if not details["loc"]:
        return message
    return f"--{str(details['loc'][0]).replace('_', '-')}: {message[0].lower()}{message[1:]}, got {details['input']!r}"


def _selection(items: list[str]) -> dict[str, tuple[str, ...]]:
    where: dict[str, tuple[str, ...]] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"--where {item!r}: must be FIELD=VALUE, for example split=train")
        where[name] = (*where.get(name, ()), value)
    return where


def _print(report: PreparationReport, target: str) -> None:
    state = "was there already" if report.reused else f"{len(report.rejections)} utterances left out"
    found = f", {report.num_shards_found} of them from an earlier run" if report.num_shards_found else ""
    console.print(
        f"{target}: {report.num_utterances} utterances, {report.hours:.2f} h, {report.num_shards} shards{found}; "
        f"{state}",
        highlight=False,
        soft_wrap=True,
    )
    if report.rejections:
        table = Table("left out because", "utterances", "for example")
        for kind, count in report.rejected_by_kind:
            example = next(r for r in report.rejections if r.kind == kind)
            table.add_row(kind, str(count), f"{example.id}: {example.reason}")
        console.print(table, markup=False)


def main() -> None:
    """Turn a corpus into shards and a manifest. Run it again after any interruption: what is done is not done twice."""
    parser = argparse.ArgumentParser(prog="python -m jobs.prepare", description=main.__doc__)
    parser.add_argument(
        "source",
        help="the corpus: a folder or file, local, s3:// or gs://; librispeech:dev-clean is downloaded; for synthetic: "
        "digits-and-commands",
    )
    parser.add_argument("target", help="folder of the dataset, local, s3:// or gs://")
    formats = ["auto", *FORMATS, "synthetic"]
    parser.add_argument("--format", choices=formats, default="auto", help="default auto: by what lies there")
    parser.add_argument(
        "--where",
        nargs="+",
        default=[],
        metavar="FIELD=VALUE",
        help="only utterances like this; one field may come several times",
    )
    parser.add_argument("--alphabet", default=ENGLISH_ALPHABET, help="characters of transcripts (default: English)")
    parser.add_argument("--strict", action="store_true", help="fail, with the list, if an utterance cannot be used")
    _add_options(parser)
    places = parser.add_argument_group("where it runs and what it downloads")
    places.add_argument(
        "--on",
        choices=["auto", "cluster", "here"],
        default="auto",
        help="shards as tasks of a Ray cluster, or in this process; default auto: on the cluster of RAY_ADDRESS "
        "(set inside `ray job submit`), else here",
    )
    places.add_argument(
        "--threads", type=int, help="decoding threads (default 2), on a cluster also CPUs of each task (default 1)"
    )
    corpus = CorpusConfig.model_fields
    places.add_argument(
        "--download-dir",
        default=corpus["download_dir"].default,
        metavar="FOLDER",
        help="where librispeech:NAME is downloaded to; every node must see it (default %(default)s)",
    )
    places.add_argument("--mirror", default="", metavar="URL", help="folder of LibriSpeech's archives to try first")
    places.add_argument("--delete-archives", action="store_true", help="delete each .tar.gz once it is unpacked")
    run_job(partial(_prepare, parser.parse_args()))


def _add_options(parser: argparse.ArgumentParser) -> None:
    """An option per knob of `PreparationConfig`."""
    group = parser.add_argument_group("what becomes part of the dataset")
    for name, field in PreparationConfig.model_fields.items():
        flag, default, text = f"--{name.replace('_', '-')}", getattr(DEFAULTS, name), field.description
        if field.annotation is bool:
            group.add_argument(flag, action="store_true", help=text)
        elif name == "speeds":
            group.add_argument(flag, type=_numbers, default=(), metavar="NUMBER,NUMBER", help=text)
        elif get_origin(field.annotation) is Literal:
            group.add_argument(
                flag, choices=get_args(field.annotation), default=default, help=f"{text} (default {default})"
            )
        else:
            kind = {"min_characters": int, "reject_text": str}.get(name, float)
            told = "" if default is None else f" (default {default:g})"
            group.add_argument(flag, type=kind, default=default, metavar=KINDS[kind], help=text + told)


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(",") if part)


if __name__ == "__main__":
    main()
