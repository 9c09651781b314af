from pathlib import Path

import pytest

from jasper_ray.errors import ConfigError, DataError
from jasper_ray.storage.piece_results import PieceResults

JOB = {"job": "evaluate", "bundle": {"folder": "/b", "weights": [3, 5]}, "piece_seconds": 600.0}


def test_what_was_written_is_found_by_the_same_job_and_refused_to_any_other(tmp_path: Path) -> None:
    folder = str(tmp_path / "work")
    results = PieceResults(folder, JOB)
    assert results.finished() == set()
    results.write(3, {"transcripts": ["a b"], "loss": 0.1 + 0.2})
    results.write(0, {"transcripts": [], "loss": 0.0})
    again = PieceResults(folder, {**JOB, "bundle": dict(JOB["bundle"])})  # type: ignore[call-overload]
    assert again.finished() == {0, 3}
    assert again.read(3) == {"transcripts": ["a b"], "loss": 0.1 + 0.2}
    with pytest.raises(ConfigError, match=r"work holds results of other work: piece_seconds was 600.0 and is 60.0 now"):
        PieceResults(folder, {**JOB, "piece_seconds": 60.0})
    with pytest.raises(ConfigError, match="decoding was None and is 'beam' now"):
        PieceResults(folder, {**JOB, "decoding": "beam"})


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    results = PieceResults(str(tmp_path), JOB)
    (tmp_path / "piece-000002.json").write_text('{"transcri')
    (tmp_path / "notes.txt").write_text("not a piece")
    assert results.finished() == {2}
    with pytest.raises(DataError, match=r"piece-000002.json is damaged .* delete it"):
        results.read(2)


def test_results_may_lie_on_a_store(s3_bucket: str) -> None:
    results = PieceResults(f"{s3_bucket}/work", JOB)
    results.write(7, {"transcripts": ["x"]})
    assert PieceResults(f"{s3_bucket}/work", JOB).finished() == {7}
