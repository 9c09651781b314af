"""A corpus to a dataset of shards: `python -m jobs.prepare SOURCE TARGET`."""

import argparse
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from jasper_ray.config.data import CorpusConfig
from jasper_ray.config.speech import ENGLISH_ALPHABET
from jasper_ray.data.manifest import MANIFEST_FILE
from jasper_ray.data.preparation import prepare_dataset
from jasper_ray.data.readers.registry import FORMATS
from jasper_ray.errors import ConfigError
from jasper_ray.storage import object_store
from jasper_ray.text.alphabet import Alphabet
from jobs.downloading import fetch_corpus
from jobs.entry import console, run_job


def _prepare(arguments: argparse.Namespace) -> Mapping[str, Any]:
    started_s = time.monotonic()
    if arguments.threads < 1:
        raise ConfigError(f"--threads must be at least 1, got {arguments.threads}")
    if not arguments.shard_mb > 0:
        raise ConfigError(f"--shard-mb must be more than 0, got {arguments.shard_mb:g}")
    where: dict[str, tuple[str, ...]] = {}
    for item in arguments.where:
        name, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"--where {item!r}: must be FIELD=VALUE, for example split=train")
        where[name] = (*where.get(name, ()), value)
    try:
        Alphabet(arguments.alphabet)
        corpus = CorpusConfig(
            source=arguments.source,
            format=arguments.format,
            where=where,
            download_dir=arguments.download_dir,
            mirror=arguments.mirror,
            keep_archives=not arguments.delete_archives,
        )
    except ValueError as error:  # pydantic's ValidationError is one
        raise ConfigError(str(error)) from error
    if not object_store.exists(object_store.join(arguments.target, MANIFEST_FILE)):
        fetch_corpus(corpus, console)
    report = prepare_dataset(
        [corpus],
        arguments.target,
        alphabet=arguments.alphabet,
        strict=arguments.strict,
        shard_bytes=int(arguments.shard_mb * 1e6),
        num_threads=arguments.threads,
    )
    state = "was there already" if report.reused else f"{len(report.rejected)} utterances left out"
    console.print(
        f"{arguments.target}: {report.num_utterances} utterances, {report.hours:.2f} h, "
        f"{report.num_shards} shards; {state}",
        highlight=False,
        soft_wrap=True,
    )
    return {
        "target": arguments.target,
        "num_utterances": report.num_utterances,
        "hours": report.hours,
        "num_shards": report.num_shards,
        "rejected": [{"id": name, "reason": reason} for name, reason in report.rejected],
        "reused": report.reused,
        "seconds": time.monotonic() - started_s,
    }


def main() -> None:
    """Turn a corpus into shards and a manifest."""
    parser = argparse.ArgumentParser(prog="python -m jobs.prepare", description=main.__doc__)
    parser.add_argument("source", help="a folder or file; librispeech:dev-clean downloads; for synthetic: a name")
    parser.add_argument("target", help="folder of the dataset, local or s3://")
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
    parser.add_argument("--strict", action="store_true", help="fail if an utterance cannot be used")
    parser.add_argument("--shard-mb", type=float, default=256.0, help="megabytes of audio per shard (default 256)")
    parser.add_argument("--threads", type=int, default=2, help="decoding threads (default 2)")
    corpus = CorpusConfig.model_fields
    parser.add_argument(
        "--download-dir",
        default=corpus["download_dir"].default,
        metavar="FOLDER",
        help="where librispeech:NAME is downloaded to; every node must see it (default %(default)s)",
    )
    parser.add_argument("--mirror", default="", metavar="URL", help="folder of LibriSpeech's archives to try first")
    parser.add_argument("--delete-archives", action="store_true", help="delete each .tar.gz once it is unpacked")
    run_job(partial(_prepare, parser.parse_args()))


if __name__ == "__main__":
    main()
