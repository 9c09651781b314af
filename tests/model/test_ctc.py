import itertools

import pytest
import torch

from jasper_ray.model.ctc import ctc_losses, greedy_decode, required_frames


def collapse(path: list[int], blank: int) -> list[int]:
    return [label for label, _ in itertools.groupby(path) if label != blank]


def test_greedy_decode_equals_the_definition_on_random_paths() -> None:
    torch.manual_seed(0)
    log_probs = torch.randn(20, 30, 4).log_softmax(2)
    lengths = torch.randint(0, 31, (20,))
    expected = [collapse(log_probs[row].argmax(1)[: lengths[row]].tolist(), blank=3) for row in range(len(lengths))]
    assert greedy_decode(log_probs, lengths, blank=3) == expected


def test_greedy_decode_ignores_frames_beyond_the_length() -> None:
    log_probs = torch.full((1, 4, 3), -5.0)
    log_probs[0, :, 0] = 0.0
    log_probs[0, 2:, 1] = 1.0
    assert greedy_decode(log_probs, torch.tensor([2]), blank=2) == [[0]]
    assert greedy_decode(log_probs, torch.tensor([4]), blank=2) == [[0, 1]]


def test_greedy_decode_refuses_a_length_beyond_the_frames() -> None:
    with pytest.raises(ValueError, match=r"length 5 is larger than the 4 frames"):
        greedy_decode(torch.zeros(1, 4, 3), torch.tensor([5]), blank=2)


def test_loss_is_the_log_sum_over_all_alignments() -> None:
    torch.manual_seed(1)
    log_probs = torch.randn(1, 4, 3).log_softmax(2)
    paths = [p for p in itertools.product(range(3), repeat=4) if collapse(list(p), blank=2) == [0, 1]]
    scores = torch.stack([sum(log_probs[0, t, label] for t, label in enumerate(path)) for path in paths])
    loss = ctc_losses(log_probs, torch.tensor([4]), torch.tensor([[0, 1]]), torch.tensor([2]), blank=2)
    torch.testing.assert_close(loss, -torch.logsumexp(scores, 0, keepdim=True))


@pytest.mark.parametrize(("labels", "frames"), [([], 0), ([1], 1), ([1, 2], 2), ([1, 1], 3), ([5, 5, 5, 2], 6)])
def test_required_frames_is_where_the_loss_becomes_finite(labels: list[int], frames: int) -> None:
    assert required_frames(labels) == frames
    if labels:
        log_probs = torch.zeros(1, 8, 7).log_softmax(2)
        target, size = torch.tensor([labels]), torch.tensor([len(labels)])
        assert ctc_losses(log_probs, torch.tensor([frames]), target, size, blank=6).isfinite()
        assert ctc_losses(log_probs, torch.tensor([frames - 1]), target, size, blank=6).isinf()


@pytest.mark.parametrize("num_labels", [3, 256, 300])
@pytest.mark.parametrize("blank", [0, 2])
def test_collapsing_paths_is_what_a_loop_over_frames_does(num_labels: int, blank: int) -> None:
    generator = torch.Generator().manual_seed(num_labels)
    log_probs = torch.randn(5, 40, num_labels, generator=generator).repeat_interleave(2, dim=1)
    lengths = torch.tensor([80, 0, 1, 33, 79])
    expected = []
    for row, length in zip(log_probs.argmax(dim=2).tolist(), lengths.tolist(), strict=True):
        path = [label for position, label in enumerate(row[:length]) if position == 0 or label != row[position - 1]]
        expected.append([label for label in path if label != blank])
    assert greedy_decode(log_probs, lengths, blank=blank) == expected
    assert greedy_decode(log_probs[:0], lengths[:0], blank=blank) == []
