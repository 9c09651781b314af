"""The list of a dataset's utterances: `manifest.parquet`, a row per utterance, written after all shards.

A `Manifest` keeps columns, not objects: a million utterances are a few arrays.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jasper_ray.errors import DataError, StorageError
from jasper_ray.storage import object_store

MANIFEST_FILE, SHARDS_FOLDER = "manifest.parquet", "shards"
CHECKSUMS_KEY = "jasper_ray.checksums"
"""Of the file's metadata: SHA-256 of each shard by its name, as JSON."""
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("duration_s", pa.float64()),
        ("num_samples", pa.int64()),
        ("sample_rate_hz", pa.int64()),
        ("speaker", pa.string()),
        ("shard", pa.string()),
        ("row", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Utterance:
    """One row of a manifest."""

    id: str
    text: str
    duration_s: float
    num_samples: int
    """Per channel, as recorded."""
    sample_rate_hz: int
    speaker: str
    shard: str
    """URI of the shard."""
    row: int
    """Row in the shard."""


@dataclass(frozen=True)
class Manifest:
    """Utterances in columns of equal length; row i of every column is utterance i."""

    ids: list[str]
    texts: list[str]
    speakers: list[str]
    durations_s: np.ndarray
    num_samples: np.ndarray
    sample_rates_hz: np.ndarray
    shards: list[str]
    """URIs of all shards, each once."""
    shard_index: np.ndarray
    """Position in `shards`, per utterance."""
    rows: np.ndarray
    """Row in its shard, per utterance."""
    shard_checksums: list[str] = field(default_factory=list)
    """SHA-256 of each of `shards`; empty strings, or no list, where a dataset does not say."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def hours(self) -> float:
        """Hours of audio."""
        return float(self.durations_s.sum()) / 3600

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over what the utterances are and their order, not over where they lie: a copied dataset keeps it."""
        digest = hashlib.sha256()
        for column in (self.ids, self.texts):
            digest.update(len(column).to_bytes(8, "little"))
            for value in column:
                encoded = value.encode()
                digest.update(len(encoded).to_bytes(8, "little") + encoded)
        for numbers in (self.num_samples, self.sample_rates_hz):
            digest.update(np.ascontiguousarray(numbers, dtype="<i8").tobytes())
        return digest.hexdigest()

    def checksum(self, shard: int) -> str:
        """SHA-256 of a shard by its position in `shards`; empty where the dataset does not say."""
        return self.shard_checksums[shard] if self.shard_checksums else ""

    def utterance(self, index: int) -> Utterance:
        """Row `index` as an object."""
        return Utterance(
            id=self.ids[index],
            text=self.texts[index],
            duration_s=float(self.durations_s[index]),
            num_samples=int(self.num_samples[index]),
            sample_rate_hz=int(self.sample_rates_hz[index]),
            speaker=self.speakers[index],
            shard=self.shards[self.shard_index[index]],
            row=int(self.rows[index]),
        )

    def select(self, indices: np.ndarray) -> "Manifest":
        """These rows, in this order."""
        return Manifest(
            ids=[self.ids[index] for index in indices],
            texts=[self.texts[index] for index in indices],
            speakers=[self.speakers[index] for index in indices],
            durations_s=self.durations_s[indices],
            num_samples=self.num_samples[indices],
            sample_rates_hz=self.sample_rates_hz[indices],
            shards=self.shards,
            shard_index=self.shard_index[indices],
            rows=self.rows[indices],
            shard_checksums=self.shard_checksums,
        )


def manifest_of(utterances: Sequence[Utterance]) -> Manifest:
    """Columns from objects."""
    shards = list(dict.fromkeys(utterance.shard for utterance in utterances))
    positions = {shard: position for position, shard in enumerate(shards)}
    return Manifest(
        ids=[utterance.id for utterance in utterances],
        texts=[utterance.text for utterance in utterances],
        speakers=[utterance.speaker for utterance in utterances],
        durations_s=np.array([utterance.duration_s for utterance in utterances], dtype=np.float64),
        num_samples=np.array([utterance.num_samples for utterance in utterances], dtype=np.int64),
        sample_rates_hz=np.array([utterance.sample_rate_hz for utterance in utterances], dtype=np.int64),
        shards=shards,
        shard_index=np.array([positions[utterance.shard] for utterance in utterances], dtype=np.int64),
        rows=np.array([utterance.row for utterance in utterances], dtype=np.int64),
    )


def write_manifest(dataset: str, manifest: Manifest) -> None:
    """Put `manifest.parquet` into a dataset; do this last, its presence means that the dataset is complete."""
    names = [shard.rpartition("/")[2] for shard in manifest.shards]
    checksums = {name: manifest.checksum(position) for position, name in enumerate(names)}
    columns = [
        pa.array(manifest.ids, pa.string()),
        pa.array(manifest.texts, pa.string()),
        pa.array(manifest.durations_s),
        pa.array(manifest.num_samples),
        pa.array(manifest.sample_rates_hz),
        pa.array(manifest.speakers, pa.string()),
        pa.array([names[position] for position in manifest.shard_index], pa.string()),
        pa.array(manifest.rows),
    ]
    write_manifest_table(dataset, pa.Table.from_arrays(columns, schema=SCHEMA), checksums)


def write_manifest_table(dataset: str, table: pa.Table, checksums: Mapping[str, str]) -> None:
    """`write_manifest` for rows that are a table of `SCHEMA` already, with the SHA-256 of each shard by its name."""
    buffer = io.BytesIO()
    metadata = {CHECKSUMS_KEY: json.dumps(dict(checksums))}
    pq.write_table(table.replace_schema_metadata(metadata), buffer, compression="zstd")
    object_store.write_bytes(object_store.join(dataset, MANIFEST_FILE), buffer.getvalue())


def read_manifest(dataset: str) -> Manifest:
    """The manifest of a dataset.

    Raises:
        DataError: There is no dataset at `dataset`, or its manifest is damaged.
    """
    uri = object_store.join(dataset, MANIFEST_FILE)
    try:
        table = pq.read_table(io.BytesIO(object_store.read_bytes(uri)))
    except StorageError as error:
        raise DataError(
            f"{dataset} is not a prepared dataset: {error}. A dataset is a folder with {MANIFEST_FILE}, "
            f"made by python -m jobs.prepare SOURCE {dataset}"
        ) from error
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{uri} is damaged: {error}. Prepare the dataset again") from error
    missing = [name for name in SCHEMA.names if name not in table.column_names]
    if missing:
        raise DataError(f"{uri} has no columns {missing}: it was not written by jasper_ray")
    encoded = table["shard"].combine_chunks().dictionary_encode()
    names = encoded.dictionary.to_pylist()
    checksums = json.loads((table.schema.metadata or {}).get(CHECKSUMS_KEY.encode(), b"{}"))
    return Manifest(
        ids=table["id"].to_pylist(),
        texts=table["text"].to_pylist(),
        speakers=table["speaker"].to_pylist(),
        durations_s=table["duration_s"].to_numpy(),
        num_samples=table["num_samples"].to_numpy(),
        sample_rates_hz=table["sample_rate_hz"].to_numpy(),
        shards=[object_store.join(dataset, SHARDS_FOLDER, name) for name in names],
        shard_index=encoded.indices.to_numpy().astype(np.int64),
        rows=table["row"].to_numpy(),
        shard_checksums=[checksums.get(name, "") for name in names],
    )


def concat_manifests(manifests: Sequence[Manifest]) -> Manifest:
    """Several datasets as one, in the given order.

    Raises:
        DataError: An id is in two of them.
    """
    ids = [name for manifest in manifests for name in manifest.ids]
    if len(set(ids)) != len(ids):
        seen: set[str] = set()
        doubled = next(name for name in ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise DataError(f"utterance id {doubled!r} is in the datasets twice: ids must be unique over all of them")
    shards = list(dict.fromkeys(shard for manifest in manifests for shard in manifest.shards))
    position = {shard: number for number, shard in enumerate(shards)}
    checksums = {shard: m.checksum(number) for m in manifests for number, shard in enumerate(m.shards)}
    index = [np.array([position[s] for s in m.shards], dtype=np.int64)[m.shard_index] for m in manifests]
    return Manifest(
        ids=ids,
        texts=[text for manifest in manifests for text in manifest.texts],
        speakers=[speaker for manifest in manifests for speaker in manifest.speakers],
        durations_s=np.concatenate([manifest.durations_s for manifest in manifests]),
        num_samples=np.concatenate([manifest.num_samples for manifest in manifests]),
        sample_rates_hz=np.concatenate([manifest.sample_rates_hz for manifest in manifests]),
        shards=shards,
        shard_index=np.concatenate(index),
        rows=np.concatenate([manifest.rows for manifest in manifests]),
        shard_checksums=[checksums[shard] for shard in shards],
    )
