import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from jasper_ray.audio.augment import Mask, UtteranceDraws
from jasper_ray.audio.decode import audio_info, decode_audio
from jasper_ray.audio.filterbank import Filterbank
from jasper_ray.config.data import LoaderConfig
from jasper_ray.config.speech import FeatureConfig
from jasper_ray.data.packing import RowShape
from jasper_ray.data.source import EncodedUtterance
from jasper_ray.data.torch_loader import TorchLoader, single_threaded_pool
from jasper_ray.errors import DataError

MakeUtterance = Callable[..., EncodedUtterance]
Microbatches = list[list[EncodedUtterance]]


@pytest.fixture
def microbatches(make_utterance: MakeUtterance) -> Microbatches:
    lengths = [16_000, 8_001, 100, 23_456, 16_000, 1, 12_345, 5_000]
    utterances = [make_utterance(index, num_samples=length) for index, length in enumerate(lengths)]
    return [utterances[:3], utterances[3:4], utterances[4:]]


def loader(*, num_threads: int = 2, prefetch: int = 2, features: FeatureConfig | None = None) -> TorchLoader:
    config = LoaderConfig(num_threads=num_threads, prefetch_microbatches=prefetch)
    return TorchLoader(features or FeatureConfig(), config)


def loader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("features", "loader"))]


def num_system_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def work_in_torch() -> int:
    """Enough work for several threads; returns how many torch would use."""
    torch.ones(2000, 500).sqrt().sum()
    return torch.get_num_threads()


def test_batches_come_in_order_padded_and_with_their_lengths(microbatches: Microbatches) -> None:
    batches = list(loader().load(microbatches))
    assert [batch.indices for batch in batches] == [(0, 1, 2), (3,), (4, 5, 6, 7)]
    assert [tuple(batch.features.shape) for batch in batches] == [(3, 64, 112), (1, 64, 160), (4, 64, 112)]
    assert batches[0].feature_lengths.tolist() == [100, 51, 1]
    assert batches[0].features[1, :, 51:].abs().max() == 0
    assert loader_threads() == []


def test_an_utterances_features_do_not_depend_on_its_batch(microbatches: Microbatches) -> None:
    filterbank = Filterbank(FeatureConfig())
    for batch, utterances in zip(loader().load(microbatches), microbatches, strict=True):
        for row, utterance in enumerate(utterances):
            alone = filterbank(torch.from_numpy(decode_audio(utterance.audio, sample_rate_hz=16_000)))
            assert torch.equal(batch.features[row, :, : alone.shape[1]], alone)


def test_packed_batches_hold_the_same_features_behind_each_other(microbatches: Microbatches) -> None:
    rows = RowShape(num_rows=3, num_frames=320, gap_frames=56)
    for packed, padded in zip(loader().load(microbatches, rows), loader().load(microbatches), strict=True):
        assert packed.features.shape == (3, 64, 320)
        assert torch.equal(packed.feature_lengths, padded.feature_lengths) and packed.indices == padded.indices
        rest = packed.features.clone()
        for number, (row, start) in enumerate(packed.places.tolist()):
            length = packed.feature_lengths[number]
            lies_at = rest[row, :, start : start + length]
            assert torch.equal(lies_at, padded.features[number, :, :length])
            lies_at.zero_()
        assert rest.abs().max() == 0
    assert packed.places.tolist() == [[0, 0], [0, 160], [0, 224], [1, 0]]


def test_a_micro_batch_that_does_not_fit_into_its_rows_is_refused(microbatches: Microbatches) -> None:
    rows = RowShape(num_rows=1, num_frames=320, gap_frames=56)
    with pytest.raises(DataError, match=r"4 utterances of 211 feature frames need 2 rows of 320 .* micro-batch has 1"):
        list(loader().load(microbatches, rows))


@pytest.mark.parametrize("num_threads", [1, 3])
def test_the_number_of_threads_changes_nothing(microbatches: Microbatches, num_threads: int) -> None:
    expected = list(loader().load(microbatches))
    for batch, other in zip(loader(num_threads=num_threads).load(microbatches), expected, strict=True):
        assert torch.equal(batch.features, other.features)


def test_draws_change_speed_noise_and_masks(make_utterance: MakeUtterance) -> None:
    masks = (Mask(3, 4, 0, 80), Mask(0, 64, 10, 5))
    draws = UtteranceDraws(speed=1.25, noise_offset=5, masks=masks)
    plain, drawn = list(loader().load([[make_utterance(1)], [make_utterance(1, draws=draws)]]))
    assert drawn.feature_lengths.tolist() == [80]
    assert drawn.features[0, 3:7].abs().max() == 0
    assert drawn.features[0, :, 10:15].abs().max() == 0
    assert plain.feature_lengths.tolist() == [100]
    assert drawn.audio_s == 0.8


def test_evaluation_has_no_dither(make_utterance: MakeUtterance) -> None:
    loud = FeatureConfig(dither=0.1)
    draws = UtteranceDraws(speed=1.0, noise_offset=99, masks=())
    quiet, noisy = list(loader(features=loud).load([[make_utterance(1)], [make_utterance(1, draws=draws)]]))
    (reference,) = list(loader().load([[make_utterance(1)]]))
    assert torch.equal(quiet.features, reference.features)
    assert not torch.allclose(noisy.features, reference.features, atol=0.1)


def test_micro_batches_are_read_no_further_ahead_than_the_prefetch(make_utterance: MakeUtterance) -> None:
    read: list[int] = []

    def endless() -> Iterator[list[EncodedUtterance]]:
        while True:
            read.append(len(read))
            yield [make_utterance(len(read))]

    batches = loader(prefetch=3).load(endless())
    next(batches)
    time.sleep(0.5)
    assert len(read) == 4
    batches.close()
    assert loader_threads() == []


def test_closing_the_loader_stops_its_threads_and_ends_its_iterators(microbatches: Microbatches) -> None:
    own = loader()
    batches = own.load(microbatches * 20)
    next(batches)
    own.close()
    assert loader_threads() == []
    assert list(batches) == []


def test_an_error_names_the_utterance_and_stops_the_threads(microbatches: Microbatches) -> None:
    microbatches[1] = [dataclasses.replace(microbatches[1][0], audio=b"<html>")]
    batches = loader().load(microbatches)
    assert next(batches).indices == (0, 1, 2)
    with pytest.raises(DataError, match=r"'utt-3'.*HTML"):
        next(batches)
    assert loader_threads() == []


def test_an_error_of_the_source_reaches_the_consumer(make_utterance: MakeUtterance) -> None:
    def source() -> Iterator[list[EncodedUtterance]]:
        yield [make_utterance(0)]
        raise DataError("shard 7 is damaged")

    batches = loader().load(source())
    next(batches)
    with pytest.raises(DataError, match=r"shard 7"):
        next(batches)
    assert loader_threads() == []


def test_worker_threads_start_no_torch_threads_and_leave_the_callers_number_alone() -> None:
    own_threads = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        pool = single_threaded_pool(2, name="features")
        before = num_system_threads()
        inside = [pool.submit(work_in_torch) for _ in range(8)]
        assert {future.result() for future in inside} == {1}
        assert num_system_threads() <= before  # a thread of an earlier test may end meanwhile
        assert torch.get_num_threads() == 4
        seen: list[int] = []
        other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        other.start()
        other.join()
        assert seen == [4]
        pool.shutdown()
    finally:
        torch.set_num_threads(own_threads)


def test_real_8_khz_digits_load(speech_data: Path) -> None:
    files = sorted((speech_data / "fsdd" / "recordings").glob("*.flac"))[::300]
    utterances = []
    for index, file in enumerate(files):
        info = audio_info(file.read_bytes())
        assert info.sample_rate_hz == 8000
        utterances.append(EncodedUtterance(index, file.stem, file.read_bytes(), 8000, info.num_samples, (1,), None))
    (batch,) = list(loader().load([utterances]))
    assert batch.feature_lengths.tolist() == [-(-utterance.num_samples * 2 // 160) for utterance in utterances]
    assert batch.features.isfinite().all()
    speech = batch.features[0, :, : batch.feature_lengths[0]]
    torch.testing.assert_close(speech.std(dim=1), torch.ones(64), atol=1e-3, rtol=0)
