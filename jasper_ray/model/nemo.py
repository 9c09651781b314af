"""NeMo's `.nemo` files of Jasper and QuartzNet: a tar of `model_config.yaml` and `model_weights.ckpt`.

NeMo's names of tensors are NVIDIA's of 2021 with other prefixes. Nothing but tensors is unpickled, and nothing of the
tar is written but the weights, under a name of our own.
"""

import re
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import yaml
from pydantic import ValidationError
from torch import Tensor

from jasper_ray.config.model import BlockConfig, ModelConfig
from jasper_ray.config.speech import FeatureConfig, TextConfig
from jasper_ray.errors import CheckpointError, ConfigError
from jasper_ray.model.nvidia import NvidiaCheckpoint, load_tensors

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"
FEATURES = {
    "sample_rate": "sample_rate_hz",
    "window_size": "window_s",
    "window_stride": "hop_s",
    "window": "window",
    "n_fft": "fft_size",
    "features": "num_mels",
    "lowfreq": "low_hz",
    "highfreq": "high_hz",
    "preemph": "preemphasis",
    "dither": "dither",
    "normalize": "normalize",
    "pad_to": "pad_to_multiple",
}
LOG_FLOOR = 2.0**-24
"""What NeMo adds to mel energies before the logarithm, unless the file says otherwise."""
PREFIXES = {"encoder.encoder.": "encoder.layers.", "decoder.decoder_layers.": "decoder.layers."}
NEUTRAL = {"residual_mode": "add", "groups": 1, "heads": -1, "se": False, "stride_last": False}
"""Keys of NeMo's blocks that this project's blocks do not have, and the values that leave out what they ask for."""
BLOCK_KEYS = {"filters", "kernel", "repeat", "stride", "dilation", "dropout", "residual", "residual_dense", "separable"}
IGNORED = {"normalization", "se_context_size", "se_interpolation_mode", "se_reduction_ratio", "kernel_size_factor"}


def is_nemo(path: Path) -> bool:
    """Whether a file is a tar, as `.nemo` files are."""
    return path.is_file() and tarfile.is_tarfile(path)


def read_nemo(path: Path) -> tuple[NvidiaCheckpoint, ModelConfig, FeatureConfig, TextConfig]:
    """A `.nemo` file's weights under our names, and what its config says about model, features and alphabet.

    Raises:
        CheckpointError: The tar is damaged, lacks a file, or holds objects other than tensors.
        ConfigError: It is no Jasper or QuartzNet, or one with parts that this project does not have; names the key.
    """
    try:
        with tarfile.open(path) as tar, tempfile.TemporaryDirectory(prefix="jasper-nemo-") as folder:
            config = yaml.safe_load(_member(tar, CONFIG, path))
            weights_path = Path(folder) / "weights"
            with weights_path.open("wb") as target:
                shutil.copyfileobj(_member(tar, WEIGHTS, path), target)
            content = load_tensors(weights_path, shown=f"{path}: {WEIGHTS}")
    except (tarfile.TarError, EOFError, OSError, yaml.YAMLError) as error:
        raise CheckpointError(f"{path} cannot be read as a .nemo file, it may be cut short: {error}") from error
    try:
        model, features, text = convert_nemo_config(config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {CONFIG}: {error}") from error
    raw = content.get("state_dict", content) if isinstance(content, Mapping) else {}
    weights = _our_names(raw, f"{path}: {WEIGHTS}", is_separable=model.is_separable)
    return NvidiaCheckpoint("nemo", weights, None, None, None, None), model, features, text


def convert_nemo_config(tree: Any) -> tuple[ModelConfig, FeatureConfig, TextConfig]:
    """NeMo's model config as ours.

    Raises:
        ConfigError: Names the key.
    """
    encoder, decoder, preprocessor = (_section(tree, name) for name in ("encoder", "decoder", "preprocessor"))
    blocks = encoder.get("jasper")
    if not isinstance(blocks, list):
        kind = encoder.get("_target_", encoder.get("cls", "an encoder without the key jasper"))
        raise ConfigError(f"encoder is {kind}, expected a ConvASREncoder with a list of blocks under jasper")
    labels = decoder.get("vocabulary") or tree.get("labels")
    if not labels or any(len(label) != 1 for label in labels):
        raise ConfigError(f"decoder.vocabulary must be single characters, got {str(labels)[:80]}")
    known = {ours: preprocessor[theirs] for theirs, ours in FEATURES.items() if preprocessor.get(theirs) is not None}
    guard = preprocessor.get("log_zero_guard_value", LOG_FLOOR)
    if not isinstance(guard, float):
        raise ConfigError(f"preprocessor.log_zero_guard_value must be a number, got {guard!r}")
    if preprocessor.get("frame_splicing", 1) != 1:
        raise ConfigError(f"preprocessor.frame_splicing must be 1, got {preprocessor['frame_splicing']}")
    try:
        model = ModelConfig(
            preset=None,
            blocks=tuple(_block(number, block) for number, block in enumerate(blocks)),
            masked=encoder.get("conv_mask", True),
            activation=encoder.get("activation", "relu"),
            init=encoder.get("init_mode", "xavier_uniform"),
        )
        features = FeatureConfig(flavour="nvidia_torch", log_floor=guard, **known)
        return model, features, TextConfig(alphabet="".join(labels))
    except KeyError as error:
        raise ConfigError(f"the key {error} is missing") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{error.title} {place}: {first['msg']} (got {first['input']!r})") from error


def _section(tree: Any, name: str) -> Mapping[str, Any]:
    section = tree.get(name) if isinstance(tree, Mapping) else None
    if not isinstance(section, Mapping):
        raise ConfigError(f"the section {name} is missing: this is no speech recognition model of NeMo's")
    inner = section.get("params")  # NeMo 0.x and 1.0 had one level more
    return inner if isinstance(inner, Mapping) else section


def _block(number: int, block: Mapping[str, Any]) -> BlockConfig:
    for key in sorted(block.keys() - BLOCK_KEYS - IGNORED):
        if block[key] != NEUTRAL.get(key):
            raise ConfigError(f"encoder.jasper[{number}] has {key}={block[key]!r}, which this project's blocks lack")
    if block.get("kernel_size_factor", 1.0) != 1.0:
        raise ConfigError(f"encoder.jasper[{number}] has kernel_size_factor={block['kernel_size_factor']}, must be 1")
    residual = ("dense" if block.get("residual_dense") else "plain") if block["residual"] else "none"
    return BlockConfig(
        filters=block["filters"],
        kernel=_single(block["kernel"]),
        stride=_single(block["stride"]),
        dilation=_single(block["dilation"]),
        repeat=block["repeat"],
        dropout=block["dropout"],
        residual=residual,
        separable=block.get("separable", False),
    )


def _single(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _member(tar: tarfile.TarFile, name: str, path: Path) -> IO[bytes]:
    for member in tar.getmembers():
        if member.isfile() and Path(member.name).name == name:
            found = tar.extractfile(member)
            assert found is not None
            return found
    names = ", ".join(member.name for member in tar.getmembers()[:8])
    raise CheckpointError(f"{path} is no .nemo file of a model: it holds {names}, expected {CONFIG} and {WEIGHTS}")


def _our_names(raw: Mapping[str, Any], source: str, *, is_separable: bool) -> dict[str, Tensor]:
    weights = {}
    for theirs, tensor in raw.items():
        prefix = next((prefix for prefix in PREFIXES if theirs.startswith(prefix)), None)
        if prefix is None:
            continue  # features, loss, metrics: they follow from the config
        if not isinstance(tensor, Tensor):
            raise CheckpointError(f"{source}: {theirs} is {type(tensor).__name__}, expected a tensor")
        name = PREFIXES[prefix] + theirs.removeprefix(prefix).replace(".conv.weight", ".weight")
        weights[name if is_separable else re.sub(r"^(encoder\.layers\.\d+\.)mconv\.", r"\1conv.", name)] = tensor
    if not weights:
        raise CheckpointError(f"{source} holds no tensor of an encoder or decoder, only {', '.join(list(raw)[:5])}")
    return weights
