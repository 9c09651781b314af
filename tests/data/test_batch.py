import dataclasses
from collections.abc import Callable

import pytest
import torch

from jasper_ray.audio.augment import UtteranceDraws
from jasper_ray.data.batch import check_length, decode_utterance, make_batch
from jasper_ray.data.source import EncodedUtterance
from jasper_ray.errors import DataError

MakeUtterance = Callable[..., EncodedUtterance]


def test_labels_are_padded_with_zeros_and_their_lengths_kept(make_utterance: MakeUtterance) -> None:
    utterances = [make_utterance(index) for index in (4, 0, 2)]
    batch = make_batch(torch.zeros(3, 64, 112), [100, 100, 100], utterances, sample_rate_hz=16_000)
    assert batch.labels.tolist() == [[1, 2, 3, 4], [0, 0, 0, 0], [1, 2, 0, 0]]
    assert batch.label_lengths.tolist() == [4, 0, 2]
    assert batch.indices == (4, 0, 2)
    assert batch.feature_lengths.dtype == batch.labels.dtype == torch.int64


def test_seconds_are_those_that_the_model_hears(make_utterance: MakeUtterance) -> None:
    fast = UtteranceDraws(speed=1.25, noise_offset=0, masks=())
    utterances = [make_utterance(0), make_utterance(1, num_samples=8000, sample_rate_hz=8000, draws=fast)]
    batch = make_batch(torch.zeros(2, 64, 112), [100, 80], utterances, sample_rate_hz=16_000)
    assert batch.audio_s == pytest.approx(1.8)


def test_a_packed_batch_says_where_its_utterances_lie_and_takes_that_along(make_utterance: MakeUtterance) -> None:
    utterances, places = [make_utterance(1), make_utterance(2)], [(0, 0), (0, 160)]
    batch = make_batch(torch.zeros(1, 64, 320), [100, 80], utterances, sample_rate_hz=16_000, places=places)
    assert batch.places.tolist() == [[0, 0], [0, 160]] and batch.longest == 100
    moved = batch.to("meta")
    assert moved.places.device.type == "meta" and moved.longest == 100


def test_a_batch_moves_to_a_device_whole(make_utterance: MakeUtterance) -> None:
    batch = make_batch(torch.zeros(1, 64, 112), [100], [make_utterance(3)], sample_rate_hz=16_000).to("meta")
    assert {batch.features.device.type, batch.labels.device.type} == {"meta"}
    assert {batch.feature_lengths.device.type, batch.label_lengths.device.type} == {"meta"}
    assert batch.indices == (3,)


def test_a_length_other_than_the_manifests_is_refused_with_both(make_utterance: MakeUtterance) -> None:
    with pytest.raises(DataError, match=r"utt-2.*15999 samples.*promises 16000"):
        check_length(make_utterance(2), 15_999, sample_rate_hz=16_000)
    wrong = dataclasses.replace(make_utterance(5), num_samples=20_000)
    with pytest.raises(DataError, match=r"utt-5"):
        decode_utterance(wrong, sample_rate_hz=16_000)


def test_an_utterance_that_cannot_be_decoded_is_named(make_utterance: MakeUtterance) -> None:
    broken = dataclasses.replace(make_utterance(7), audio=b"not audio")
    with pytest.raises(DataError, match=r"'utt-7'.*text beginning 'not audio'"):
        decode_utterance(broken, sample_rate_hz=16_000)
