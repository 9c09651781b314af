import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from jasper_ray.errors import DataError, StorageError
from jasper_ray.training.log_probs_file import LogProbsTable, read_log_probs


def test_frames_come_back_without_padding_and_in_the_order_of_ids(tmp_path: Path) -> None:
    log_probs = torch.randn(3, 5, 4)
    table = LogProbsTable(["a", "b", "c", ""], frame_s=0.02)
    table.add(["y", "x"], log_probs[:2].half(), torch.tensor([5, 2]))
    table.add(["z"], log_probs[2:], torch.tensor([0]))
    table.write(str(tmp_path / "piece.parquet"))
    found = read_log_probs(str(tmp_path / "piece.parquet"))
    assert list(found) == ["x", "y", "z"]
    assert [rows.shape[0] for rows in found.values()] == [2, 5, 0]
    np.testing.assert_array_equal(found["x"], log_probs[1, :2].half().float().numpy())
    metadata = pq.read_schema(tmp_path / "piece.parquet").metadata
    assert json.loads(metadata[b"labels"]) == ["a", "b", "c", ""] and float(metadata[b"frame_s"]) == 0.02


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(b"noise")
    with pytest.raises(DataError, match=r"noise is damaged: .* Write it again with jobs.evaluate --log-probs"):
        read_log_probs(str(tmp_path / "noise"))
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "other")
    with pytest.raises(DataError, match=r"other has no columns \['num_frames', 'log_probs'\]"):
        read_log_probs(str(tmp_path / "other"))
    with pytest.raises(StorageError):
        read_log_probs(str(tmp_path / "missing"))
