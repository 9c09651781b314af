"""The inference benchmark, small: its figures, its command line, operator calls beside NVIDIA's."""

import argparse

import pytest
import torch
from torch import nn

from jasper_ray.config.model import JASPER_MIDDLE, ModelConfig, jasper_blocks
from jasper_ray.config.speech import FeatureConfig, TextConfig
from jasper_ray.errors import ConfigError
from jasper_ray.model.bundle import Bundle, BundleConfig, build_model
from jasper_ray.text.alphabet import Alphabet
from jobs.benchmarks.calls import num_calls
from jobs.benchmarks.hearing import measure_features, measure_greedy
from jobs.benchmarks.inference import (
    YARDSTICK,
    InferenceBenchmark,
    add_inference_arguments,
    inference_benchmark_of,
    measure_inference,
)


def small_bundle() -> Bundle:
    torch.manual_seed(0)
    blocks = jasper_blocks(5, JASPER_MIDDLE, scale=0.02)
    config = BundleConfig(features=FeatureConfig(), text=TextConfig(), model=ModelConfig(preset=None, blocks=blocks))
    model = build_model(config.model, config.features, config.text).eval()
    return Bundle(model, config, Alphabet(config.text.alphabet))


def test_every_way_is_measured_in_turn_with_its_accuracy_and_its_calls() -> None:
    ways = (("fp32", "direct"), ("fp32", "frequency"))
    benchmark = InferenceBenchmark(small_bundle(), (1, 2), (0.5,), ways, "cpu", 1, 3, True, False)
    said: list[str] = []
    figures = measure_inference(benchmark, said.append)
    assert [(row["batch_size"], row["way"]) for row in figures["rows"]] == [
        (size, way) for size in (1, 2) for way in (YARDSTICK, "fp32, direct", "fp32, frequency")
    ]
    for row in figures["rows"]:
        assert row["data+model_s"]["mean"] == pytest.approx(row["data_s"]["mean"] + row["model_s"]["mean"])
        assert row["model_s"]["p50"] <= row["model_s"]["p90"] <= row["model_s"]["p99"]
        assert row["relative_error"] < 1e-4 and row["labels_agreeing"] == 1
        assert row["audio_s_per_s"] == pytest.approx(row["batch_size"] * 0.5 / row["data+model_s"]["mean"])
    assert len(said) == 2
    calls = figures["operator_calls"]
    assert calls["yardstick"] == pytest.approx(1841, rel=0.01)
    assert calls["direct, CPU"] <= 160
    assert calls["direct, GPU, before it is captured as one graph"] <= 160


def test_calls_are_counted() -> None:
    x = torch.ones(3)
    assert num_calls(lambda: nn.functional.relu(x + 1).view(1, 3)) == 3


def test_features_and_greedy_decoding_are_measured_beside_nvidias_and_agree() -> None:
    features = measure_features(utterances=2, seconds=1.0)
    assert features["faster"] > 0 and features["largest_difference"] < 5e-3
    greedy = measure_greedy(utterances=2, frames=100)
    assert greedy["labels_equal"] and greedy["faster_collapse"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--preset", "jasper7"], "jasper7"),
        (["--seconds", "0"], "--seconds must be above 0"),
    ],
)
def test_a_wrong_argument_is_named(words: list[str], said: str) -> None:
    parser = argparse.ArgumentParser()
    add_inference_arguments(parser)
    with pytest.raises(ConfigError, match=said):
        inference_benchmark_of(parser.parse_args(words))
