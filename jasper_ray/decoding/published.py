"""LibriSpeech's published n-grams by name: fetched from the mirrors, whole or not at all, written as ours."""

import gzip
import logging
import os
import urllib.error
import urllib.request
import zlib
from collections.abc import Sequence
from pathlib import Path

from jasper_ray.data.download import DEFAULT_OPTIONS, PART_SUFFIX, Progress, check_space, disk_errors, only_one
from jasper_ray.data.part_file import PartFile
from jasper_ray.data.transfer import DownloadOptions, Transfer
from jasper_ray.errors import DataError, StorageError

logger = logging.getLogger(__name__)

PREFIX = "librispeech:"
NAMES = ("3-gram", "3-gram.pruned.1e-7", "3-gram.pruned.3e-7", "4-gram")
MIRRORS = (
    "https://www.openslr.org/resources/11/",
    "https://us.openslr.org/resources/11/",
    "https://openslr.elda.org/resources/11/",
)
MIRROR_VARIABLE = "JASPER_LIBRISPEECH_LM_MIRROR"


def is_published(source: str) -> bool:
    """Whether a language model is named as `librispeech:3-gram.pruned.1e-7`."""
    return source.startswith(PREFIX)


def fetch_published(
    source: str,
    folder: Path,
    *,
    progress: Progress,
    mirror: str = "",
    options: DownloadOptions = DEFAULT_OPTIONS,
) -> Path:
    """The ARPA file of a published model in a folder, in lower case, fetched if it is not there yet.

    No sums are published: the file is whole if its gzip checksum is right and it has the n-grams that it says it has.

    Args:
        source: `librispeech:` and one of `NAMES`.
        folder: Where it comes to lie.
        progress: Told of the download.
        mirror: Address of a folder to try first; else that in `JASPER_LIBRISPEECH_LM_MIRROR`, if it is set.
        options: Patience and speed of the download.

    Raises:
        DataError: There is no such model, `mirror` is no address of a web server, or what came is no ARPA file.
        StorageError: It cannot be fetched or stored; names what and why.
    """
    name = source.removeprefix(PREFIX)
    if name not in NAMES:
        raise DataError(f"{source}: LibriSpeech has no language model {name!r}. It has: {', '.join(NAMES)}")
    arpa, packed = folder / f"{name}.arpa", folder / f"{name}.arpa.gz"
    if arpa.exists():
        return arpa
    own = mirror or os.environ.get(MIRROR_VARIABLE, "")
    if own and not own.startswith(("http://", "https://")):
        raise DataError(f"mirror {own!r}: must begin with http:// or https://")
    urls = [f"{place.rstrip('/')}/{packed.name}" for place in (own, *MIRRORS) if place]
    with disk_errors(folder, 0):
        folder.mkdir(parents=True, exist_ok=True)
        with only_one(folder / f".{arpa.name}.lock"):
            if not arpa.exists():  # another process may have made it meanwhile
                if not packed.exists():
                    _download(packed, urls, options, progress)
                _unpack(packed, arpa)
                packed.unlink()
    return arpa


def _download(target: Path, urls: Sequence[str], options: DownloadOptions, progress: Progress) -> None:
    num_bytes, answering = _size(urls, options.timeout_s)
    path = target.with_name(target.name + PART_SUFFIX)
    with PartFile(path, num_bytes=num_bytes, chunk_bytes=options.chunk_bytes) as part:
        check_space(target.parent, num_bytes - part.num_done, target.name)
        Transfer(part, answering, options).run(lambda done, total: progress(target.name, done, total))
    path.replace(target)
    part.delete_state()


def _size(urls: Sequence[str], timeout_s: float) -> tuple[int, list[str]]:
    """Bytes of the file, and the mirrors from the first that says so."""
    refusals = []
    for number, url in enumerate(urls):
        try:
            request = urllib.request.Request(url, method="HEAD")
            with urllib.request.urlopen(request, timeout=timeout_s) as reply:
                length = reply.headers.get("Content-Length", "")
        except (urllib.error.URLError, OSError, ValueError) as error:
            refusals.append(f"{url}: {error}")
            continue
        if length.isdigit() and int(length):
            return int(length), list(urls[number:])
        refusals.append(f"{url}: does not say how large the file is")
    raise StorageError("no mirror has the language model: " + "; ".join(refusals))


def _unpack(packed: Path, arpa: Path) -> None:
    """Decompress into lower case, as transcripts are written, and count."""
    logger.info("unpacking %s", packed)
    path = arpa.with_name(arpa.name + PART_SUFFIX)
    try:
        with gzip.open(packed, "rt", encoding="utf-8") as lines, path.open("w", encoding="utf-8") as file:
            promised: list[int] = []
            found: list[int] = []
            ended = False
            for line in lines:
                file.write(line.lower())
                if line.startswith("\\end\\"):
                    ended = True
                elif line.startswith("ngram "):
                    promised.append(int(line.partition("=")[2]))
                elif line.startswith("\\") and line.rstrip().endswith("-grams:"):
                    found.append(0)
                elif found and line.strip():
                    found[-1] += 1
        if not ended or not promised or promised != found:
            raise DataError(f"it promises {promised} n-grams and has {found}")
        path.replace(arpa)
    except (EOFError, zlib.error, gzip.BadGzipFile, UnicodeDecodeError, ValueError, DataError) as error:
        packed.unlink(missing_ok=True)
        raise DataError(f"{packed.name} is no whole ARPA file: {error}. It was deleted: fetch it again") from error
    finally:
        path.unlink(missing_ok=True)
