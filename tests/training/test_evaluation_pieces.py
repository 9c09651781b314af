import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_bundle import save_random_bundle
from tones import prepare_tones

from jasper_ray.config.data import LoaderConfig
from jasper_ray.config.decoding import DecodingConfig
from jasper_ray.data.manifest import Manifest, read_manifest
from jasper_ray.model.bundle import load_bundle
from jasper_ray.training.evaluation_pieces import EvaluationWork, alone, cut_by_shard, evaluate_bundle, joined


def manifest_with(durations_s: list[float], shard_index: list[int]) -> Manifest:
    count = len(durations_s)
    return Manifest(
        ids=[f"u{row}" for row in range(count)],
        texts=["ab"] * count,
        speakers=[""] * count,
        durations_s=np.array(durations_s),
        num_samples=np.full(count, 16000),
        sample_rates_hz=np.full(count, 16000),
        shards=[f"/d/shards/{shard}" for shard in range(5)],
        shard_index=np.array(shard_index, dtype=np.int64),
        rows=np.arange(count),
        shard_checksums=[f"sum{shard}" for shard in range(5)],
    )


@given(
    rows=st.lists(st.tuples(st.floats(0.1, 30.0), st.integers(0, 4)), min_size=1, max_size=60),
    seconds=st.floats(0.5, 100.0),
)
def test_every_row_is_in_one_piece_of_one_shard_and_bounded_length(
    rows: list[tuple[float, int]], seconds: float
) -> None:
    durations_s, shards = zip(*rows, strict=True)
    manifest = manifest_with(list(durations_s), list(shards))
    pieces = cut_by_shard(manifest, seconds=seconds)
    assert sorted(row for piece in pieces for row in piece.tolist()) == list(range(len(rows)))
    for piece in pieces:
        assert len(set(manifest.shard_index[piece].tolist())) == 1
        assert len(piece) == 1 or manifest.durations_s[piece].sum() <= seconds + 1e-6


def test_a_piece_brings_along_only_its_own_shards() -> None:
    manifest = manifest_with([1.0, 2.0, 3.0], [4, 1, 4])
    part = alone(manifest, np.array([0, 2]))
    assert (part.shards, part.shard_checksums) == (["/d/shards/4"], ["sum4"])
    assert [part.utterance(row) for row in range(2)] == [manifest.utterance(0), manifest.utterance(2)]


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_pieces_together_are_the_evaluation_of_the_whole(tmp_path: Path, method: str) -> None:
    prepare_tones(tmp_path, train=1, evaluation=14)
    manifest = read_manifest(str(tmp_path / "evaluation"))
    bundle = save_random_bundle(tmp_path / "bundle")
    loader = LoaderConfig(num_threads=1)
    decoding = DecodingConfig.model_validate({"method": method, "lexicon": False})
    work = EvaluationWork(bundle, loader, decoding, seconds_per_batch=2.0, with_words=True)
    pieces = cut_by_shard(manifest, seconds=1.5)
    assert len(pieces) > 3
    # Through JSON, as they lie in a folder; the last piece first, as a cluster may finish them.
    results = dict(json.loads(json.dumps(work((n, alone(manifest, pieces[n]))))) for n in reversed(range(len(pieces))))
    found, words = joined(pieces, [results[number] for number in range(len(pieces))])

    loaded = load_bundle(bundle)
    if method == "greedy":
        whole = evaluate_bundle(loaded, manifest, loader=loader, device=torch.device("cpu"), seconds_per_batch=60.0)
        assert found.transcripts == whole.transcripts and found.errors == whole.errors
        assert (found.num_utterances, found.num_infeasible) == (whole.num_utterances, whole.num_infeasible)
        assert found.loss == pytest.approx(whole.loss, rel=1e-5)
    assert list(found.transcripts) == list(range(14)) and len(set(found.transcripts.values())) > 2
    for row, text in found.transcripts.items():
        assert [word.word for word in words[row]] == text.split()
