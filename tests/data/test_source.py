import dataclasses
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from jasper_ray.audio.augment import draw_speeds
from jasper_ray.config.speech import ENGLISH_ALPHABET, AugmentConfig, FeatureConfig
from jasper_ray.data.manifest import Manifest
from jasper_ray.data.open_shards import OpenShards
from jasper_ray.data.shards import ShardRow, put_shard, shard_name
from jasper_ray.data.source import UtteranceSource
from jasper_ray.errors import DataError
from jasper_ray.storage.shard_cache import ShardCache
from jasper_ray.text.alphabet import Alphabet

TEXTS = ("a", "bc", "d e", "", "it's", "xyz")
AUGMENT = AugmentConfig(speed_min=0.85, speed_max=1.15, time_masks=2, freq_masks=2)


def encoded(index: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.full(8000 + index, index / 100), 8000, format="FLAC")
    return file.getvalue()


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Six utterances in several shards of a dataset."""
    dataset = str(tmp_path / "dataset")
    shared_out = np.arange(len(TEXTS)).reshape(3, 2)
    for number, indices in enumerate(shared_out.tolist()):
        put_shard(dataset, number, [ShardRow(f"utt-{index}", encoded(index), "", TEXTS[index]) for index in indices])
    num_samples = np.array([8000 + index for index in range(len(TEXTS))], dtype=np.int64)
    return Manifest(
        ids=[f"utt-{index}" for index in range(len(TEXTS))],
        texts=list(TEXTS),
        speakers=["s"] * len(TEXTS),
        durations_s=num_samples / 8000,
        num_samples=num_samples,
        sample_rates_hz=np.full(len(TEXTS), 8000, dtype=np.int64),
        shards=[f"{dataset}/shards/{shard_name(number)}" for number in range(3)],
        shard_index=np.repeat(np.arange(3), 2),
        rows=np.tile(np.arange(2), 3),
    )


def source(
    manifest: Manifest, tmp_path: Path, augment: AugmentConfig | None = AUGMENT, seed: int = 3
) -> UtteranceSource:
    cache = ShardCache(tmp_path / "cache", 10**9)
    return UtteranceSource(manifest, Alphabet(ENGLISH_ALPHABET), FeatureConfig(), augment, seed, cache)


def test_utterances_come_in_the_order_asked_for_with_their_audio_and_labels(manifest: Manifest, tmp_path: Path) -> None:
    utterances = source(manifest, tmp_path).microbatch([4, 0, 5, 3], epoch=0)
    assert [utterance.id for utterance in utterances] == ["utt-4", "utt-0", "utt-5", "utt-3"]
    assert [bytes(utterance.audio) for utterance in utterances] == [encoded(index) for index in (4, 0, 5, 3)]
    assert [utterance.labels for utterance in utterances] == [(9, 20, 27, 19), (1,), (24, 25, 26), ()]
    assert [utterance.num_samples for utterance in utterances] == [8004, 8000, 8005, 8003]


def test_draws_are_those_of_seed_epoch_and_row_however_they_are_grouped(manifest: Manifest, tmp_path: Path) -> None:
    together = source(manifest, tmp_path).microbatch([0, 1, 2, 3, 4, 5], epoch=2)
    alone = [source(manifest, tmp_path).microbatch([row], epoch=2)[0] for row in range(6)]
    assert [utterance.draws for utterance in together] == [utterance.draws for utterance in alone]
    other_epoch = source(manifest, tmp_path).microbatch([0, 1, 2, 3, 4, 5], epoch=1)
    other_seed = source(manifest, tmp_path, seed=4).microbatch([0, 1, 2, 3, 4, 5], epoch=2)
    for others in (other_epoch, other_seed):
        assert all(one.draws != other.draws for one, other in zip(together, others, strict=True))


def test_speeds_are_those_that_the_plan_was_made_with(manifest: Manifest, tmp_path: Path) -> None:
    planned = draw_speeds(AUGMENT, seed=3, epoch=7, utterances=np.arange(6))
    assert [
        utterance.speed for utterance in source(manifest, tmp_path).microbatch(range(6), epoch=7)
    ] == planned.tolist()


def test_masks_lie_within_the_frames_at_the_drawn_speed(manifest: Manifest, tmp_path: Path) -> None:
    long_masks = AUGMENT.model_copy(update={"time_mask_max_frames": 1000})
    for epoch in range(30):
        for utterance in source(manifest, tmp_path, long_masks).microbatch(range(6), epoch):
            assert utterance.draws is not None
            num_frames = -(-utterance.waveform_samples(16_000) // 160)
            assert all(mask.first_frame + mask.num_frames <= num_frames for mask in utterance.draws.masks)


def test_evaluation_has_no_draws(manifest: Manifest, tmp_path: Path) -> None:
    utterances = source(manifest, tmp_path, augment=None).microbatch(range(6), epoch=0)
    assert {utterance.draws for utterance in utterances} == {None}
    assert {utterance.speed for utterance in utterances} == {1.0}


def test_several_threads_may_read_at_once(manifest: Manifest, tmp_path: Path) -> None:
    shared = source(manifest, tmp_path)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda row: bytes(shared.microbatch([row % 6], 0)[0].audio), range(60)))
    assert read == [encoded(row % 6) for row in range(60)]


def test_few_shards_stay_open_and_audio_outlives_its_shard(
    manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jasper_ray.data.open_shards.MAX_OPEN_SHARDS", 1)
    utterances = source(manifest, tmp_path).microbatch([0, 5, 0, 3, 5], epoch=0)
    assert [bytes(utterance.audio) for utterance in utterances] == [encoded(index) for index in (0, 5, 0, 3, 5)]


def test_a_transcript_outside_the_alphabet_is_named(manifest: Manifest, tmp_path: Path) -> None:
    foreign = dataclasses.replace(manifest, texts=["ä", *TEXTS[1:]])
    with pytest.raises(DataError, match=r"'utt-0'.*\['ä'\]"):
        source(foreign, tmp_path).microbatch([1, 0], epoch=0)


def test_a_local_shard_that_is_gone_is_named_and_not_waited_for(manifest: Manifest, tmp_path: Path) -> None:
    Path(manifest.shards[1]).unlink()
    row = int(np.flatnonzero(manifest.shard_index == 1)[0])
    with pytest.raises(DataError, match=r"00001\.arrow cannot be read as a shard"):
        source(manifest, tmp_path).microbatch([row], 0)


@pytest.mark.parametrize(("num_drops", "is_read"), [(2, True), (1000, False)])
def test_a_shard_that_other_processes_drop_is_fetched_again_but_not_for_ever(
    manifest: Manifest, tmp_path: Path, num_drops: int, is_read: bool
) -> None:
    class Dropping:
        """A cache whose first so many shards are gone again before they can be opened."""

        num_fetches = 0

        def fetch(self, uri: str, *, checksum: str = "") -> Path:
            self.num_fetches += 1
            return tmp_path / "gone" if self.num_fetches <= num_drops else Path(manifest.shards[0])

    remote = dataclasses.replace(manifest, shards=[f"s3://bucket/{n}" for n in range(len(manifest.shards))])
    cache = Dropping()
    shards = OpenShards(remote, cache)
    if is_read:
        assert bytes(shards.shard("s3://bucket/0").audio(0)) == encoded(0) and cache.num_fetches == num_drops + 1
    else:
        with pytest.raises(DataError, match="gone cannot be read as a shard"):
            shards.shard("s3://bucket/0")
