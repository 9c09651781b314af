from dataclasses import replace

import pytest
import torch

from jasper_ray.model.choice import LayerCase, choose
from jasper_ray.model.convolution import Convolution, set_convolution_method

WIDE = LayerCase(channels=512, kernel=17, frames=8000, device="cpu", dtype=torch.bfloat16, has_frequency_method=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_wide_layer_over_many_frames_is_computed_in_the_frequency_domain(dtype: torch.dtype) -> None:
    assert choose(replace(WIDE, dtype=dtype)) == "frequency"


@pytest.mark.parametrize("change", [{"kernel": 5}, {"channels": 32}, {"frames": 256}, {"has_frequency_method": False}])
def test_what_was_measured_slower_in_the_frequency_domain_is_computed_directly(change: dict[str, int]) -> None:
    assert choose(replace(WIDE, **change)) != "frequency"


def test_without_measurements_the_answer_is_the_direct_sum() -> None:
    assert choose(replace(WIDE, device="cuda", dtype=torch.float64)) == "channels_last"
    assert choose(replace(WIDE, dtype=torch.float64)) == "conv1d"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_gpu_takes_the_frequency_domain_for_wide_kernels_over_more_frames_than_a_cpu(dtype: torch.dtype) -> None:
    on_gpu = replace(WIDE, device="cuda", dtype=dtype, frames=20_000)
    assert choose(on_gpu) == "frequency"
    assert choose(replace(on_gpu, frames=4_000)) == choose(replace(on_gpu, kernel=11, channels=256)) == "channels_last"


def test_longer_batches_never_turn_a_layer_back_to_the_direct_sum() -> None:
    for channels in (32, 64, 128, 512):
        for kernel in (1, 5, 11, 17, 29):
            case = replace(WIDE, channels=channels, kernel=kernel)
            chosen = [
                choose(replace(case, frames=frames)) == "frequency" for frames in (1, 500, 1000, 2000, 4000, 10**6)
            ]
            assert chosen == sorted(chosen)
            assert choose(replace(case, frames=None)) == choose(replace(case, frames=10**6))


def test_in_evaluation_the_choice_and_so_the_rounding_does_not_depend_on_the_batch() -> None:
    torch.manual_seed(0)
    layer = Convolution(128, 128, 17, padding=8, bias=False).eval()
    set_convolution_method(layer, "auto")
    assert {layer._case(torch.zeros(rows, 128, frames)).frames for rows, frames in ((1, 50), (8, 900))} == {None}
    assert {layer.train()._case(torch.zeros(rows, 128, 50)).frames for rows in (1, 8)} == {50, 400}
