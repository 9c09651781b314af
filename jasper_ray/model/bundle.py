"""A bundle: weights, feature settings and alphabet in one folder; all that evaluation and serving need.

`config.json` (what it is), `model.safetensors` (the weights to deploy: averaged ones where the run kept an average),
`plain.safetensors` (the weights without averaging, where there is an average) and a `README.md` for people.
"""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from jasper_ray.config.model import ModelConfig
from jasper_ray.config.speech import FeatureConfig, TextConfig
from jasper_ray.config.strict import StrictModel
from jasper_ray.errors import BundleError, StorageError
from jasper_ray.model.jasper import Jasper
from jasper_ray.storage import object_store
from jasper_ray.text.alphabet import Alphabet

FORMAT_VERSION = 1
CONFIG_FILE, WEIGHTS_FILE, PLAIN_WEIGHTS_FILE = "config.json", "model.safetensors", "plain.safetensors"


class BundleConfig(StrictModel):
    """What the weights mean."""

    format_version: int = FORMAT_VERSION
    """Layout of the folder."""
    features: FeatureConfig
    """How audio becomes the model's input."""
    text: TextConfig
    """What its outputs stand for."""
    model: ModelConfig
    """Its blocks."""
    training: dict[str, Any] = Field(default_factory=dict)
    """Where it comes from: run, step, epoch, word error rate and the whole run configuration."""


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle: the model in evaluation mode on its device."""

    model: Jasper
    config: BundleConfig
    alphabet: Alphabet


def build_model(config: ModelConfig, features: FeatureConfig, text: TextConfig) -> Jasper:
    """A freshly initialised model (from torch's global random state)."""
    return Jasper(config, num_mels=features.num_mels, num_labels=Alphabet(text.alphabet).num_labels)


def save_bundle(
    folder: Path, *, config: BundleConfig, weights: dict[str, Tensor], plain_weights: dict[str, Tensor] | None
) -> None:
    """Write a bundle into a local folder; `plain_weights` is none where no average was kept."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, folder / WEIGHTS_FILE)
    if plain_weights is not None:
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in plain_weights.items()}
        save_file(plain, folder / PLAIN_WEIGHTS_FILE)
    parameters = sum(tensor.numel() for name, tensor in weights.items() if name.endswith((".weight", ".bias")))
    (folder / "README.md").write_text(_readme(config, parameters), encoding="utf-8")
    (folder / CONFIG_FILE).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_bundle_config(uri: str) -> BundleConfig:
    """The description of a bundle, without its weights.

    Raises:
        BundleError: There is no bundle at `uri`, or it is of a format this version does not know.
    """
    try:
        raw = json.loads(object_store.read_bytes(object_store.join(uri, CONFIG_FILE)))
    except StorageError as error:
        raise BundleError(f"{uri} is not a bundle: {error}. A bundle is a folder with {CONFIG_FILE}.") from error
    except ValueError as error:
        raise BundleError(f"{uri}/{CONFIG_FILE} is not JSON: {error}") from error
    if raw.get("format_version") != FORMAT_VERSION:
        raise BundleError(
            f"{uri} has bundle format {raw.get('format_version')!r}, this version reads {FORMAT_VERSION}: "
            "use the jasper_ray that wrote it, or write it again"
        )
    try:
        return BundleConfig.model_validate(raw)
    except ValidationError as error:
        raise BundleError(f"{uri}/{CONFIG_FILE} is not a valid bundle description: {error}") from error


def check_bundle(uri: str) -> BundleConfig:
    """The description of a bundle whose weights fit it; of local weights the header is read, of remote ones nothing.

    Raises:
        BundleError: As `load_bundle`.
    """
    config = read_bundle_config(uri)
    if object_store.is_local(uri):
        weights_uri = object_store.join(uri, WEIGHTS_FILE)
        try:
            with safe_open(object_store.local_path(weights_uri), framework="pt") as weights:
                shapes = {name: list(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise BundleError(f"{weights_uri} cannot be read as weights: {error}") from error
        with torch.device("meta"):
            model = build_model(config.model, config.features, config.text)
        _require_fit(model, shapes, source=weights_uri)
    return config


def load_bundle(uri: str, *, device: str = "cpu", plain_weights: bool = False) -> Bundle:
    """Load a bundle from a local folder or an object store.

    Args:
        uri: Folder of the bundle.
        device: Where the model goes.
        plain_weights: Take the weights without averaging.

    Raises:
        BundleError: Something is missing or does not fit; names the file and the tensors.
    """
    config = read_bundle_config(uri)
    weights_uri = object_store.join(uri, PLAIN_WEIGHTS_FILE if plain_weights else WEIGHTS_FILE)
    weights = _read_weights(weights_uri)
    model = build_model(config.model, config.features, config.text)
    load_weights(model, weights, source=weights_uri)
    model.to(device).eval()
    return Bundle(model=model, config=config, alphabet=Alphabet(config.text.alphabet))


def load_weights(model: Jasper, weights: dict[str, Tensor], *, source: str) -> None:
    """Fill a model by name; every tensor must be there with the right shape.

    Raises:
        BundleError: Names the first tensors that are missing, unknown or of another shape.
    """
    _require_fit(model, {name: list(tensor.shape) for name, tensor in weights.items()}, source=source)
    model.load_state_dict(weights)


def _require_fit(model: Jasper, shapes: dict[str, list[int]], *, source: str) -> None:
    expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    problems = [f"{name} is missing" for name in expected.keys() - shapes.keys()]
    problems += [f"{name} is not part of the model" for name in shapes.keys() - expected.keys()]
    problems += [
        f"{name} is {shapes[name]}, the model has {expected[name]}"
        for name in expected.keys() & shapes.keys()
        if shapes[name] != expected[name]
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:5])
        raise BundleError(f"{source} does not fit its model in {len(problems)} tensors: {shown}")


def _read_weights(uri: str) -> dict[str, Tensor]:
    try:
        if object_store.is_local(uri):
            return dict(load_file(object_store.local_path(uri)))
        with tempfile.TemporaryDirectory(prefix="jasper-bundle-") as folder:
            local = Path(folder) / WEIGHTS_FILE
            object_store.download_file(uri, local)
            return dict(load_file(local))
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{uri} cannot be read as weights: {error}") from error


def _readme(config: BundleConfig, parameters: int) -> str:
    blocks = config.model.resolved_blocks
    training = config.training
    wer = f"{100 * training['wer']:.2f} %" if training.get("wer") is not None else "not measured"
    return f"""---
pipeline_tag: automatic-speech-recognition
library_name: jasper_ray
metrics:
- wer
---
# {training.get("run", "jasper")}

Jasper of {len(blocks)} blocks, {parameters:,} parameters, CTC over {config.text.alphabet!r} and blank;
{config.features.num_mels} log-mel bins at {config.features.sample_rate_hz} Hz. Trained to step {training.get("step")},
epoch {training.get("epoch")}; word error rate on its evaluation set: {wer}.

    python -m jobs.transcribe <this folder> speech.wav
    python -m jobs.serve <this folder>
"""
