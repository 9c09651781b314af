"""Log-probabilities of utterances in Parquet files, for those who decode or distil elsewhere."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from jasper_ray.data.batch import Batch
from jasper_ray.errors import DataError, StorageError
from jasper_ray.storage import object_store

LABELS_KEY, FRAME_KEY = "labels", "frame_s"
COLUMNS = ("id", "num_frames", "log_probs")


@dataclass
class LogProbsTable:
    """Rows that become a file.

    Args:
        labels: What each of the `V` columns of log-probabilities stands for; the blank is the empty one.
        frame_s: Seconds per frame of the model's output.
    """

    labels: Sequence[str]
    frame_s: float
    _ids: list[str] = field(default_factory=list)
    _rows: list[np.ndarray] = field(default_factory=list)

    def add(self, ids: Sequence[str], log_probs: Tensor, lengths: Tensor) -> None:
        """Add a batch: `log_probs` `(B, T, V)`, natural logarithms, of which `lengths` `(B,)` frames count."""
        for utterance, frames, length in zip(ids, log_probs.float().cpu().numpy(), lengths.tolist(), strict=True):
            self._ids.append(utterance)
            self._rows.append(frames[:length].copy())

    def observer(self, ids: Sequence[str]) -> Callable[[Batch, Tensor, Tensor], None]:
        """What `evaluate` calls with each batch; `ids` are those of all manifest rows."""
        return lambda batch, log_probs, lengths: self.add([ids[row] for row in batch.indices], log_probs, lengths)

    def write(self, uri: str) -> None:
        """Write `id`, `num_frames` and `log_probs` (float32, frame after frame), in the order of the ids.

        The schema's metadata hold `labels` (JSON) and `frame_s`.
        """
        order = sorted(range(len(self._ids)), key=self._ids.__getitem__)
        columns = [
            pa.array([self._ids[row] for row in order], pa.string()),
            pa.array([len(self._rows[row]) for row in order], pa.int32()),
            pa.array([self._rows[row].ravel() for row in order], pa.list_(pa.float32())),
        ]
        metadata = {LABELS_KEY: json.dumps(list(self.labels)), FRAME_KEY: repr(self.frame_s)}
        table = pa.Table.from_arrays(columns, names=list(COLUMNS)).replace_schema_metadata(metadata)
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        object_store.write_bytes(uri, buffer.getvalue())


def read_log_probs(uri: str) -> dict[str, np.ndarray]:
    """Id to log-probabilities `(T, V)`, float32, natural logarithms, of a file that `jobs.evaluate --log-probs` wrote.

    Raises:
        DataError: It is not such a file, or damaged.
        StorageError: It cannot be read.
    """
    try:
        table = pq.read_table(io.BytesIO(object_store.read_bytes(uri)))
    except StorageError:
        raise
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{uri} is damaged: {error}. Write it again with jobs.evaluate --log-probs") from error
    labels = (table.schema.metadata or {}).get(LABELS_KEY.encode())
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing or labels is None:
        lacks = f"columns {missing}" if missing else f"metadata {LABELS_KEY!r}"
        raise DataError(f"{uri} has no {lacks}: it was not written by jobs.evaluate --log-probs")
    num_labels = len(json.loads(labels))
    ids, counts = table["id"].to_pylist(), table["num_frames"].to_pylist()
    rows = table["log_probs"].combine_chunks()
    values, offsets = rows.flatten().to_numpy(), np.cumsum([0, *(len(row) for row in rows)])
    return {
        name: values[start:end].reshape(count, num_labels)
        for name, count, start, end in zip(ids, counts, offsets[:-1], offsets[1:], strict=True)
    }
