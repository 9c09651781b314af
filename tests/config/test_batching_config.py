import pytest
from pydantic import ValidationError

from jasper_ray.config.data import DataConfig
from jasper_ray.config.model import PRESETS
from jasper_ray.config.schema import RunConfig


def packed(preset: str = "jasper10x5dr", **batching: float) -> RunConfig:
    tree = {
        "batching": {"policy": "packed", **batching},
        "model": {"preset": preset, "batch_norm_padding": "exclude"},
    }
    return RunConfig.model_validate(tree)


@pytest.mark.parametrize("preset", sorted(name for name in PRESETS if name.startswith("jasper")))
def test_the_default_gap_covers_the_widest_convolution_of_every_jasper(preset: str) -> None:
    config = packed(preset)
    assert config.batching.gap_seconds == pytest.approx(config.model.packing_gap_frames * config.features.hop_s)


@pytest.mark.parametrize("preset", sorted(name for name in PRESETS if name.startswith("quartznet")))
def test_quartznets_wider_convolutions_ask_for_a_wider_gap(preset: str) -> None:
    with pytest.raises(ValidationError, match=rf"gap_seconds=0\.56 is less than the 1\.72 s .*{preset}"):
        packed(preset)
    assert packed(preset, gap_seconds=1.72).batching.gap_seconds == 1.72


def test_a_gap_that_the_model_reaches_over_is_refused_with_both_values() -> None:
    with pytest.raises(ValidationError, match=r"gap_seconds=0\.5 is less than the 0\.56 s .*jasper10x5dr"):
        packed(gap_seconds=0.5)
    assert packed(gap_seconds=0.6).batching.gap_seconds == 0.6


def test_gaps_matter_to_packed_rows_only() -> None:
    assert RunConfig.model_validate({"batching": {"gap_seconds": 0.0}}).batching.gap_seconds == 0


def test_a_window_of_one_shard_is_refused() -> None:
    with pytest.raises(ValidationError, match="window_shards"):
        DataConfig(window_shards=1)
