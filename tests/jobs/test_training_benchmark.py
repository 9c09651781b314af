"""The training benchmark, small: its arithmetic, its figures, and what it says beside the yardstick."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from jasper_ray.config.model import ModelConfig
from jasper_ray.errors import ConfigError
from jasper_ray.model.arithmetic import forward_flops, step_flops
from jasper_ray.model.jasper import Jasper, num_parameters
from jobs.benchmarks.profile import Span, idle_share, is_kernel, is_product, is_product_kernel, longest_gaps
from jobs.benchmarks.training import (
    TrainingBenchmark,
    add_arguments,
    cases_of,
    make_case_batch,
    measure_training,
)
from jobs.benchmarks.yardstick_step import LAYER_ERRORS, YARDSTICK, measure_beside_yardstick, measure_layer


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words)


SMALL = cases_of(
    arguments("--first-blocks", "2", "--repeat", "1", "--batch-sizes", "2", "--seconds", "1", "--precisions", "fp32")
)[0]


def test_the_formula_agrees_with_two_operations_per_weight_and_output_frame() -> None:
    config = ModelConfig(preset="jasper10x5dr")
    flops = forward_flops(config, num_mels=64, num_labels=29, seconds=1)
    with torch.device("meta"):
        parameters = num_parameters(Jasper(config, num_mels=64, num_labels=29))
    assert flops == pytest.approx(2 * parameters * 50, rel=1e-3)  # batch norms and the bias are no products
    assert step_flops(config, num_mels=64, num_labels=29, seconds=12.3) == pytest.approx(1.227e12, rel=1e-3)


def test_a_separable_blocks_products_are_those_of_its_two_convolutions() -> None:
    config = ModelConfig(preset="quartznet15x5")
    flops = forward_flops(config, num_mels=64, num_labels=29, seconds=1)
    with torch.device("meta"):
        model = Jasper(config, num_mels=64, num_labels=29)
    weights = sum(module.weight.numel() for module in model.modules() if isinstance(module, torch.nn.Conv1d))
    assert flops == pytest.approx(2 * weights * 50, rel=1e-3)


def test_the_command_line_gives_every_combination_in_a_fixed_order() -> None:
    cases = cases_of(
        arguments("--batch-sizes", "2", "4", "--precisions", "bf16", "fp32", "--methods", "auto", "conv1d")
    )
    assert [(case.batch_size, case.name) for case in cases[:4]] == [
        (2, "bf16, auto"),
        (2, "bf16, conv1d"),
        (2, "fp32, auto"),
        (2, "fp32, conv1d"),
    ]
    assert len(cases_of(arguments("--packed", "--precisions", "bf16"))) == 2
    assert len(cases_of(arguments("--packed", "0", "--precisions", "bf16"))) == 1
    assert len(cases) == 8 and {case.seconds for case in cases} == {16.7}


def test_the_yardsticks_model_of_five_blocks_has_its_known_size() -> None:
    case = cases_of(arguments("--first-blocks", "5", "--repeat", "1"))[0]
    with torch.device("meta"):
        assert num_parameters(Jasper(case.model, num_mels=64, num_labels=29)) == 5_771_933


@pytest.mark.parametrize(("words", "key"), [(("--preset", "jasper7"), "jasper7"), (("--devices", "0"), "--devices")])
def test_a_wrong_argument_is_named(words: tuple[str, ...], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        cases_of(arguments(*words))


def test_steps_are_measured_with_their_rate_and_utilisation(tmp_path: Path) -> None:
    benchmark = TrainingBenchmark((SMALL,), (1,), steps=2, warmup=1, threads=1, device="cpu")
    said: list[str] = []
    (row,) = measure_training(benchmark, said.append, tmp_path / "rows")
    assert [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()] == [row]
    names = [one["name"] for one in row["kernels"]]
    assert "aten::mkldnn_convolution" in names and row["gaps"] == []
    assert row["kernels"] == sorted(row["kernels"], key=lambda one: one["ms"], reverse=True)
    assert row["sequences_per_s"] == pytest.approx(2 / row["queued_step_s"])
    assert 0 < row["outside_convolutions"] < 1 and row["device_idle"] is None
    assert row["utilisation"] == pytest.approx(row["flop_per_s"] / row["device_flop_per_s"])
    assert 0 < row["utilisation"] < 2 and row["weak_scaling"] == 1
    assert len(said) == 1 and "1 x 2 x 1 s, fp32, auto" in said[0]


@pytest.mark.slow
def test_two_processes_train_together_and_are_compared_with_one() -> None:
    benchmark = TrainingBenchmark((SMALL,), (1, 2), steps=2, warmup=1, threads=1, device="cpu")
    rows = measure_training(benchmark, lambda line: None)
    assert [row["devices"] for row in rows] == [1, 2]
    assert 0 < rows[1]["weak_scaling"] < 1.5


def test_the_yardstick_runs_in_turn_and_our_fp32_step_has_its_loss_and_gradient() -> None:
    cases = (SMALL, replace(SMALL, precision="bf16", method="frequency"))
    figures = measure_beside_yardstick(cases, rounds=1, threads=1, device="cpu")
    assert list(figures["step_ms"]) == [YARDSTICK, "fp32, auto", "bf16, frequency"]
    assert figures["step_ms"][YARDSTICK]["faster_cpu"] == 1
    assert figures["errors"]["fp32, auto"]["loss"] < 1e-5
    assert figures["errors"]["fp32, auto"]["gradient"] < 1e-3
    assert 1e-4 < figures["errors"]["bf16, frequency"]["gradient"] < 0.2


def test_a_layer_is_measured_by_every_method_with_its_errors() -> None:
    figures = measure_layer(16, 11, 1, 64, precisions=["bf16", "fp32"], rounds=1, threads=1, device="cpu")["methods"]
    assert list(figures)[3:] == ["fp32, conv1d", "fp32, channels_last", "fp32, frequency"]
    assert 1 in (figures["fp32, conv1d"]["faster_cpu"], figures["fp32, channels_last"]["faster_cpu"])
    for name, row in figures.items():
        least, most = (0, 1e-5) if name.startswith("fp32") else (1e-4, 1e-2)
        assert all(least < row[error] < most for error in LAYER_ERRORS)


def test_packed_rows_hold_utterances_of_the_mean_that_was_asked_for_and_count_as_what_they_are() -> None:
    padded, packed = cases_of(
        arguments(
            *("--first-blocks", "2", "--repeat", "1", "--batch-sizes", "8", "--seconds", "2", "--packed", "1.5"),
            *("--precisions", "fp32"),
        )
    )
    assert (padded.packed, padded.seconds, packed.packed, packed.name) == (False, 2, True, "fp32, auto, packed")
    batch = make_case_batch(packed)
    assert batch.audio_s / len(batch.indices) == pytest.approx(1.5, rel=0.25)
    assert batch.features.shape[2] * 0.01 * len(batch.features) == pytest.approx(8 * (1.5 + 0.56), rel=0.2)
    assert batch.features.shape[0] < len(batch.indices) and batch.places is not None
    benchmark = TrainingBenchmark((packed,), (1,), steps=1, warmup=0, threads=1, device="cpu", peak_flop_per_s=1e12)
    (row,) = measure_training(benchmark, lambda line: None)
    assert row["utterances"] == len(batch.indices) and row["audio_s"] == batch.audio_s
    assert row["utilisation"] == pytest.approx(row["flop_per_s"] / 1e12)


def test_products_are_told_from_what_surrounds_them() -> None:
    assert all(is_product(name) for name in ("aten::mkldnn_convolution", "aten::convolution_backward", "aten::bmm"))
    assert not any(is_product(name) for name in ("aten::native_batch_norm", "aten::_ctc_loss", "aten::mul"))


def test_kernels_of_convolutions_are_told_from_others() -> None:
    assert all(
        map(
            is_product_kernel,
            (
                "sm90_xmma_fprop_implicit_gemm_bf16",
                "nvjet_sm90_tst_128x32",
                "void cutlass::Kernel2<x>",
                "lay_out_kernel",
            ),
        )
    )
    assert not any(map(is_product_kernel, ("statistics_kernel", "void at::native::vectorized_elementwise_kernel<4>")))


def test_what_the_host_marks_on_a_gpus_time_line_is_no_kernel_and_a_kernel_made_of_a_lambda_is_one() -> None:
    def on_gpu(name: str, *, is_mark: bool = False) -> bool:
        return is_kernel(SimpleNamespace(device_type=DeviceType.CUDA, key=name, is_user_annotation=is_mark))

    copy = "void at::native::elementwise_kernel<128, 4, at::native::direct_copy_kernel_cuda()::{lambda()#3}>(int)"
    assert on_gpu(copy) and on_gpu("forward_kernel") and on_gpu("Memset (Device)")
    assert not on_gpu("ProfilerStep#3") and not on_gpu("Optimizer.step#Novograd.step")
    assert not on_gpu("a part of the step", is_mark=True)
    assert not is_kernel(SimpleNamespace(device_type=DeviceType.CPU, key="aten::mm", is_user_annotation=False))


def test_idle_is_the_time_between_kernels_wherever_they_overlap() -> None:
    assert idle_share([(0.0, 4.0), (3.0, 5.0), (6.0, 10.0), (7.0, 8.0)]) == pytest.approx(0.1)
    assert idle_share([]) is None


def test_gaps_are_told_by_the_kernels_around_them_the_longest_first() -> None:
    spans = [
        Span(0, 2, "a"),
        Span(3, 4, "b"),
        Span(3.5, 8, "a"),
        Span(8, 9, "b"),
        Span(11, 12, "c"),
        Span(12.5, 13, "c"),
    ]
    assert longest_gaps(spans) == [(("b", "c"), (2, 1)), (("a", "b"), (1, 1)), (("c", "c"), (0.5, 1))]
    assert longest_gaps([]) == []
