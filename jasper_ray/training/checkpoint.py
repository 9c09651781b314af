"""Checkpoints: complete or invisible, verified before use, and never the only copy while a new one is written.

A checkpoint is a folder `checkpoints/step_00001234/`: `bundle/` (what serving and evaluation read), `trainer.pt`
(optimizer and scaler; loads with `weights_only=True`), `progress.json`, and `CHECKSUMS`, written last. A folder without
`CHECKSUMS` is not a checkpoint; one whose files differ from it is damaged and skipped for the one before.
"""

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from jasper_ray.config.schema import CheckpointConfig
from jasper_ray.errors import CheckpointError, ResumeError, StorageError
from jasper_ray.model.bundle import BundleConfig, save_bundle
from jasper_ray.storage import object_store

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
CHECKPOINTS, BUNDLE = "checkpoints", "bundle"
TRAINER_FILE, PROGRESS_FILE, CHECKSUMS_FILE = "trainer.pt", "progress.json", "CHECKSUMS"
UNFINISHED = ".partial"
STEP_FOLDER = re.compile(r"^step_(\d{8,})$")


@dataclass(frozen=True)
class Progress:
    """Where a run stands: enough to compute all that follows."""

    seed: int
    manifest_fingerprint: str
    epoch: int = 0
    """Epoch of the next step, from 0."""
    step: int = 0
    """Next step in that epoch, from 0."""
    global_step: int = 0
    """Optimizer steps made so far."""
    plan: dict[str, Any] = field(default_factory=dict)
    """The settings besides seed and manifest that decide the order of utterances."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Figures of the last evaluation."""
    best_wer: float | None = None
    """Lowest word error rate so far, of the weights that are deployed."""
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and found whole."""

    uri: str
    progress: Progress
    weights: dict[str, Tensor]
    averaged_weights: dict[str, Tensor] | None
    trainer: dict[str, Any]


def save_checkpoint(
    output: str,
    *,
    progress: Progress,
    bundle: BundleConfig,
    weights: dict[str, Tensor],
    averaged_weights: dict[str, Tensor] | None,
    trainer: dict[str, Any],
) -> str:
    """Write a checkpoint; returns its folder. Rank 0 only.

    Raises:
        StorageError: It could not be written; what was there before is untouched, what was begun is deleted.
    """
    uri = object_store.join(output, CHECKPOINTS, f"step_{progress.global_step:08d}")
    with _appearing(uri) as folder:
        _save_weights(folder / BUNDLE, bundle, weights, averaged_weights)
        torch.save(trainer, folder / TRAINER_FILE)
        (folder / PROGRESS_FILE).write_text(json.dumps(asdict(progress), indent=2), encoding="utf-8")
        lines = [f"{_sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in _files(folder)]
        (folder / CHECKSUMS_FILE).write_text("".join(lines), encoding="utf-8")
    return uri


@contextmanager
def _appearing(uri: str) -> Iterator[Path]:
    """An empty local folder whose files lie at `uri` when the block has ended, `CHECKSUMS` after all others.

    On a disk it is filled beside `uri` and renamed, so that each byte is written once. A folder that was there before
    is left from a job that died, or of the same step: it goes.

    Raises:
        StorageError: Something cannot be written; nothing stays at `uri`, whatever was written.
    """
    try:
        if not object_store.is_local(uri):
            with tempfile.TemporaryDirectory(prefix="jasper-checkpoint-") as name:
                yield Path(name)
                object_store.delete_tree(uri)
                object_store.upload_folder(Path(name), uri, last=CHECKSUMS_FILE)
            return
        target = object_store.local_path(uri)
        for left_over in target.parent.glob(f".*{UNFINISHED}"):
            shutil.rmtree(left_over)
        folder = target.with_name(f".{target.name}{UNFINISHED}")
        folder.mkdir(parents=True)
        try:
            yield folder
            for path in (*_files(folder), *(path.parent for path in _files(folder))):
                _to_the_disk(path)
            object_store.delete_tree(uri)
            folder.rename(target)
            _to_the_disk(target.parent)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except StorageError:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors have words of their own
        raise StorageError(
            f"{uri}: the checkpoint could not be written: {error}. The ones before it are untouched; free some space "
            "or lower checkpoint.keep_last, then start the run again"
        ) from error


def _to_the_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_deployed_bundle(
    uri: str, bundle: BundleConfig, weights: dict[str, Tensor], averaged_weights: dict[str, Tensor] | None
) -> None:
    """Write only the bundle, `config.json` last. Rank 0 only."""
    with tempfile.TemporaryDirectory(prefix="jasper-bundle-") as name:
        _save_weights(Path(name), bundle, weights, averaged_weights)
        object_store.delete_tree(uri)
        object_store.upload_folder(Path(name), uri, last="config.json")


def find_checkpoints(output: str) -> list[str]:
    """Folders of complete checkpoints, oldest first; what they hold is not checked."""
    root = object_store.join(output, CHECKPOINTS)
    names = [name for name in object_store.list_folders(root) if STEP_FOLDER.match(name)]
    uris = [object_store.join(root, name) for name in sorted(names, key=step_of)]
    return [uri for uri in uris if object_store.exists(object_store.join(uri, CHECKSUMS_FILE))]


def load_newest(output: str, *, device: torch.device) -> Checkpoint | None:
    """The newest checkpoint that is whole; damaged ones are skipped with a warning. None if there is none at all.

    Raises:
        CheckpointError: There are checkpoints, but every one is damaged.
    """
    found = find_checkpoints(output)
    damages = []
    for uri in reversed(found):
        try:
            return load_checkpoint(uri, device=device)
        except CheckpointError as error:
            logger.warning("skipping a damaged checkpoint: %s", error)
            damages.append(str(error))
    if damages:
        raise CheckpointError(
            f"all {len(damages)} checkpoints of {output} are damaged: {'; '.join(damages)}. "
            "Restore one, or start again with resume=never and another output"
        )
    return None


def load_checkpoint(uri: str, *, device: torch.device) -> Checkpoint:
    """Read one checkpoint, every file checked against its checksum.

    Raises:
        CheckpointError: A file is missing or differs; names it.
    """
    with tempfile.TemporaryDirectory(prefix="jasper-checkpoint-") as name:
        folder = object_store.local_path(uri) if object_store.is_local(uri) else Path(name)
        try:
            if not object_store.is_local(uri):
                object_store.download_folder(uri, folder)
            _verify(folder, uri)
            progress = Progress(**json.loads((folder / PROGRESS_FILE).read_text(encoding="utf-8")))
            trainer = torch.load(folder / TRAINER_FILE, weights_only=True, map_location=device)
            deployed = load_file(folder / BUNDLE / "model.safetensors", device=str(device))
            plain_file = folder / BUNDLE / "plain.safetensors"
            plain = load_file(plain_file, device=str(device)) if plain_file.exists() else None
        except (OSError, TypeError, ValueError) as error:
            raise CheckpointError(f"{uri} cannot be read: {error}") from error
    if progress.format_version != FORMAT_VERSION:
        raise CheckpointError(f"{uri} has format {progress.format_version}, this version reads {FORMAT_VERSION}")
    return Checkpoint(uri, progress, deployed if plain is None else plain, plain and deployed, trainer)


def verify_checkpoint(uri: str) -> None:
    """Compare the files of a checkpoint with its checksums.

    Raises:
        CheckpointError: One is missing or differs; names it.
    """
    if object_store.is_local(uri):
        _verify(object_store.local_path(uri), uri)
        return
    with tempfile.TemporaryDirectory(prefix="jasper-checkpoint-") as name:
        object_store.download_folder(uri, Path(name))
        _verify(Path(name), uri)


def check_same_run(checkpoint: Checkpoint, *, expected: Progress) -> None:
    """Refuse a checkpoint that would go on with another order of utterances.

    Raises:
        ResumeError: Names what differs, both values, and the ways out.
    """
    saved, advice = (
        checkpoint.progress,
        "or start a new run from these weights with init_from=<its bundle> and a new output",
    )
    if saved.manifest_fingerprint != expected.manifest_fingerprint:
        raise ResumeError(
            f"checkpoint {checkpoint.uri} was made from manifest {saved.manifest_fingerprint:.12}, this run reads "
            f"{expected.manifest_fingerprint:.12}: the utterance order would differ without a sign. "
            f"Use the same data, {advice}"
        )
    keys = dict.fromkeys([*expected.plan, *saved.plan])
    differing = {key: expected.plan.get(key) for key in keys if saved.plan.get(key) != expected.plan.get(key)}
    if saved.seed != expected.seed:
        differing["seed"] = expected.seed
    if differing:
        old = {key: saved.seed if key == "seed" else saved.plan.get(key) for key in differing}
        raise ResumeError(
            f"checkpoint {checkpoint.uri} was made with {old}, this run has {differing}: it would go on "
            f"differently without a sign. Use the same settings, {advice}"
        )


def prune_checkpoints(output: str, config: CheckpointConfig) -> None:
    """Delete all but the newest `keep_last` and those made at the end of one of `keep_epochs`. Rank 0 only."""
    for uri in find_checkpoints(output)[: -config.keep_last]:
        progress = read_progress(uri)
        if progress.step == 0 and progress.epoch in config.keep_epochs:
            continue
        # CHECKSUMS first: a half-deleted folder must not look like a checkpoint.
        object_store.delete_file(object_store.join(uri, CHECKSUMS_FILE))
        object_store.delete_tree(uri)


def read_progress(uri: str) -> Progress:
    """Only the position and figures of a checkpoint.

    Raises:
        CheckpointError: They cannot be read.
    """
    try:
        return Progress(**json.loads(object_store.read_bytes(object_store.join(uri, PROGRESS_FILE))))
    except (OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"{uri}/{PROGRESS_FILE} cannot be read: {error}") from error


def step_of(uri: str) -> int:
    """Global step in the name of a checkpoint's folder."""
    match = STEP_FOLDER.match(uri.rstrip("/").rpartition("/")[2])
    assert match is not None, uri
    return int(match.group(1))


def _save_weights(
    folder: Path, bundle: BundleConfig, weights: dict[str, Tensor], averaged_weights: dict[str, Tensor] | None
) -> None:
    deployed = weights if averaged_weights is None else averaged_weights
    save_bundle(folder, config=bundle, weights=deployed, plain_weights=None if averaged_weights is None else weights)


def _verify(folder: Path, uri: str) -> None:
    try:
        lines = (folder / CHECKSUMS_FILE).read_text(encoding="utf-8").splitlines()
    except (OSError, StorageError) as error:
        raise CheckpointError(f"{uri} has no {CHECKSUMS_FILE}: it was never finished") from error
    for line in lines:
        checksum, _, name = line.partition("  ")
        path = folder / name
        if not path.exists():
            raise CheckpointError(f"{uri}: {name} is missing")
        if _sha256(path) != checksum:
            raise CheckpointError(f"{uri}: {name} differs from its checksum ({path.stat().st_size} bytes)")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
