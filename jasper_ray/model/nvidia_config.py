"""NVIDIA's model files (YAML of 2021, TOML of 2020) as our configs of model, features and text."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from jasper_ray.config.model import BlockConfig, ModelConfig
from jasper_ray.config.speech import FeatureConfig, TextConfig
from jasper_ray.errors import ConfigError

Flavour = Literal["default", "nvidia_torch", "nvidia_dali"]

BLOCK_KEYS = {
    *("filters", "kernel_size", "kernel", "repeat", "stride", "dilation", "dropout"),
    *("residual", "residual_dense", "separable"),
}
FEATURES = {
    "sample_rate": "sample_rate_hz",
    "window_size": "window_s",
    "window_stride": "hop_s",
    "window": "window",
    "n_fft": "fft_size",
    "n_filt": "num_mels",
    "features": "num_mels",
    "lowfreq": "low_hz",
    "highfreq": "high_hz",
    "preemph": "preemphasis",
    "dither": "dither",
    "normalize": "normalize",
    "pad_align": "pad_to_multiple",
    "pad_to": "pad_to_multiple",
}


def read_nvidia_config(path: Path, *, flavour: Flavour | None = None) -> tuple[ModelConfig, FeatureConfig, TextConfig]:
    """What a model file of NVIDIA's says about blocks, features and labels.

    Args:
        path: YAML of 2021 (Jasper or QuartzNet) or TOML of 2020.
        flavour: Whose features; none takes those the file's models were trained with by default: `nvidia_dali` for
            YAML, `nvidia_torch` for TOML.

    Raises:
        ConfigError: Names the file and the key.
    """
    try:
        text = path.read_text(encoding="utf-8")
        is_toml = path.suffix == ".toml"
        tree = tomllib.loads(text) if is_toml else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    try:
        return convert_nvidia_config(tree, flavour=flavour)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def convert_nvidia_config(
    tree: Any, *, flavour: Flavour | None = None
) -> tuple[ModelConfig, FeatureConfig, TextConfig]:
    """As `read_nvidia_config`, of a file's content.

    Raises:
        ConfigError: Names the key.
    """
    if not isinstance(tree, Mapping):
        raise ConfigError(f"expected a mapping with jasper or quartznet, got {type(tree).__name__}")
    section = tree.get("jasper") or tree.get("quartznet")
    try:
        if isinstance(section, list):  # TOML of 2020: a list of tables
            encoder = {**tree["encoder"], "blocks": section}
            raw_features, labels = tree["input_eval"], tree["labels"]["labels"]
            chosen: Flavour = flavour or "nvidia_torch"
        elif isinstance(section, Mapping):
            encoder = section["encoder"]
            raw_features, labels = tree["input_val"]["filterbank_features"], tree["labels"]
            chosen = flavour or "nvidia_dali"
        else:
            raise ConfigError(f"neither jasper nor quartznet is described, only {', '.join(map(str, tree))}")
        model = ModelConfig(
            preset=None,
            blocks=tuple(_block(number, block) for number, block in enumerate(encoder["blocks"])),
            masked=encoder.get("use_conv_masks", encoder.get("convmask", False)),
            activation=encoder.get("activation", "relu"),
            init=encoder.get("init", "xavier_uniform"),
        )
        known = {ours: raw_features[theirs] for theirs, ours in FEATURES.items() if theirs in raw_features}
        return model, FeatureConfig(flavour=chosen, **known), TextConfig(alphabet="".join(labels))
    except KeyError as error:
        raise ConfigError(f"the key {error} is missing") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{error.title} {place}: {first['msg']} (got {first['input']!r})") from error


def _block(number: int, block: Mapping[str, Any]) -> BlockConfig:
    unknown = sorted(block.keys() - BLOCK_KEYS)
    if unknown:
        raise ConfigError(f"block {number} has {', '.join(unknown)}, which this project's blocks do not know")
    residual = ("dense" if block.get("residual_dense") else "plain") if block["residual"] else "none"
    return BlockConfig(
        filters=block["filters"],
        kernel=_single(block.get("kernel_size", block.get("kernel"))),
        stride=_single(block["stride"]),
        dilation=_single(block["dilation"]),
        repeat=block["repeat"],
        dropout=block["dropout"],
        residual=residual,
        separable=block.get("separable", False),
    )


def _single(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value
