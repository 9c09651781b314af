"""LibriSpeech by name: its published archives, fetched, verified, unpacked to plain tars to read single files from."""

import gzip
import logging
import os
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jasper_ray.data.download import (
    DEFAULT_OPTIONS,
    PART_SUFFIX,
    Progress,
    RemoteFile,
    check_space,
    disk_errors,
    download,
    only_one,
)
from jasper_ray.data.transfer import DownloadOptions
from jasper_ray.errors import DataError, StorageError

logger = logging.getLogger(__name__)

PREFIX = "librispeech:"
MIRRORS = (
    "https://www.openslr.org/resources/12/",
    "https://us.openslr.org/resources/12/",
    "https://openslr.elda.org/resources/12/",
)
MIRROR_VARIABLE = "JASPER_LIBRISPEECH_MIRROR"
COPIED_BYTES = 1 << 20


@dataclass(frozen=True)
class Archive:
    """What is published of a subset."""

    num_bytes: int
    md5: str


# Sums: md5sum.txt beside the archives on openslr.org/12.
ARCHIVES: Mapping[str, Archive] = {
    "dev-clean": Archive(337_926_286, "42e2234ba48799c1f50f24a7926300a1"),
    "dev-other": Archive(314_305_928, "c8d0bcc9cca99d4f8b62fcc847357931"),
    "test-clean": Archive(346_663_984, "32fa31d27d2e1cad72775fee3f4849a9"),
    "test-other": Archive(328_757_843, "fb5a50374b501bb3bac4815ee91d3135"),
    "train-clean-100": Archive(6_387_309_499, "2a93770f6d5c6c964bc36631d331a522"),
    "train-clean-360": Archive(23_049_477_885, "c0e676e450a7ff2f54aeade5171606fa"),
    "train-other-500": Archive(30_593_501_606, "d1a0fd59409feb2c614ce4d30c387708"),
}


def is_by_name(source: str) -> bool:
    """Whether a corpus is named as `librispeech:dev-clean`."""
    return source.startswith(PREFIX)


def subsets_of(source: str) -> tuple[str, ...]:
    """The subsets in `librispeech:dev-clean,test-clean`.

    Raises:
        DataError: There is no such subset, or one comes twice; names those there are.
    """
    names = tuple(name.strip() for name in source.removeprefix(PREFIX).split(","))
    unknown = [name for name in names if name not in ARCHIVES]
    if unknown:
        raise DataError(f"{source}: LibriSpeech has no subset {unknown[0]!r}. It has: {', '.join(ARCHIVES)}")
    if len(set(names)) < len(names):
        raise DataError(f"{source}: names a subset twice")
    return names


def fetch_subset(
    name: str,
    folder: Path,
    *,
    progress: Progress,
    mirror: str = "",
    keep_archive: bool = True,
    options: DownloadOptions = DEFAULT_OPTIONS,
) -> Path:
    """The plain tar of a subset in a folder, downloaded and unpacked if it is not there yet.

    Args:
        name: One of `ARCHIVES`.
        folder: Where the archive and the tar come to lie.
        progress: Told of the download.
        mirror: Address of a folder of archives to try first; else that in `JASPER_LIBRISPEECH_MIRROR`, if it is set.
        keep_archive: Whether the `.tar.gz` stays beside the tar.
        options: Patience and speed of the download.

    Raises:
        DataError: `mirror` is no address of a web server.
        StorageError: It cannot be fetched or stored; names what and why.
    """
    tar, published = folder / f"{name}.tar", ARCHIVES[name]
    if tar.exists():
        return tar
    own = mirror or os.environ.get(MIRROR_VARIABLE, "")
    if own and not own.startswith(("http://", "https://")):
        raise DataError(f"mirror {own!r}: must begin with http:// or https://")
    urls = tuple(f"{place.rstrip('/')}/{name}.tar.gz" for place in (own, *MIRRORS) if place)
    remote = RemoteFile(f"{name}.tar.gz", published.num_bytes, published.md5, urls)
    with disk_errors(folder, published.num_bytes):
        folder.mkdir(parents=True, exist_ok=True)
        with only_one(folder / f".{tar.name}.lock"):
            if not tar.exists():  # another process may have made it meanwhile
                archive = download(remote, folder, progress=progress, options=options)
                _unpack(archive, tar)
                if not keep_archive:
                    archive.unlink(missing_ok=True)
    return tar


def _unpack(archive: Path, tar: Path) -> None:
    """Decompress, so that every file in it has a place that can be read from; FLAC does not grow by that."""
    check_space(tar.parent, archive.stat().st_size, tar.name)
    logger.info("unpacking %s", archive)
    # A name that the next process overwrites, should this one be killed.
    path = tar.with_name(tar.name + PART_SUFFIX)
    try:
        with gzip.open(archive) as packed, path.open("wb") as file:
            shutil.copyfileobj(packed, file, COPIED_BYTES)
            file.flush()
            os.fsync(file.fileno())  # the name stands for the whole, also after a power cut
        path.replace(tar)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise StorageError(f"{archive}: is damaged although its MD5 is right: {error}") from error
    finally:
        path.unlink(missing_ok=True)
