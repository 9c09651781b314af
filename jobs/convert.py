"""NVIDIA's and NeMo's checkpoints to bundles, and back: `python -m jobs.convert CHECKPOINT BUNDLE`."""

import argparse
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from jasper_ray.config.model import ModelConfig
from jasper_ray.config.speech import FeatureConfig, TextConfig
from jasper_ray.errors import BundleError, CheckpointError, ConfigError
from jasper_ray.model.bundle import (
    CONFIG_FILE,
    PLAIN_WEIGHTS_FILE,
    BundleConfig,
    build_model,
    load_bundle,
    load_weights,
    save_bundle,
)
from jasper_ray.model.jasper import num_parameters
from jasper_ray.model.nemo import is_nemo, read_nemo
from jasper_ray.model.nvidia import (
    NvidiaCheckpoint,
    preset_of,
    read_nvidia_checkpoint,
    write_nvidia_checkpoint,
)
from jasper_ray.model.nvidia_config import read_nvidia_config
from jasper_ray.storage import object_store
from jobs.entry import run_job


def _import(arguments: argparse.Namespace) -> Mapping[str, Any]:
    source = Path(arguments.source)
    if is_nemo(source):
        checkpoint, model, features, text = read_nemo(source)
    else:
        checkpoint = read_nvidia_checkpoint(source)
    if checkpoint.layout == "nemo":
        if arguments.config:
            raise ConfigError("--config is for NVIDIA's checkpoints: a .nemo file has its config inside")
        if arguments.flavour:
            features = features.model_copy(update={"flavour": arguments.flavour})
    elif arguments.config:
        model, features, text = read_nvidia_config(Path(arguments.config), flavour=arguments.flavour)
    else:
        preset = preset_of(checkpoint.weights)
        if preset is None:
            raise CheckpointError(
                f"{source}: its tensors are those of no preset, so strides and dilations are unknown: "
                "name NVIDIA's model file with --config FILE.yaml (or .toml)"
            )
        flavour = arguments.flavour or ("nvidia_torch" if checkpoint.layout == "2020" else "nvidia_dali")
        model, features, text = ModelConfig(preset=preset), FeatureConfig(flavour=flavour), TextConfig()
    empty = build_model(model, features, text)
    load_weights(empty, checkpoint.weights, source=f"{source}: state_dict")
    if checkpoint.averaged is not None:
        load_weights(empty, checkpoint.averaged, source=f"{source}: ema_state_dict")
    training = {
        "run": f"imported from {source.name}",
        "step": checkpoint.step,
        "epoch": checkpoint.epoch,
        "nvidia": {"layout": checkpoint.layout, "best_wer": checkpoint.best_wer},
    }
    config = BundleConfig(features=features, text=text, model=model, training=training)
    with tempfile.TemporaryDirectory(prefix="jasper-convert-") as folder:
        save_bundle(
            Path(folder),
            config=config,
            weights=checkpoint.averaged or checkpoint.weights,
            plain_weights=checkpoint.weights if checkpoint.averaged is not None else None,
        )
        object_store.upload_folder(Path(folder), arguments.target, last=CONFIG_FILE)
    return {
        "bundle": arguments.target,
        "layout": checkpoint.layout,
        "preset": model.preset,
        "parameters": num_parameters(empty),
        "averaged": checkpoint.averaged is not None,
        "epoch": checkpoint.epoch,
        "step": checkpoint.step,
        "flavour": features.flavour,
    }


def _export(arguments: argparse.Namespace) -> Mapping[str, Any]:
    target = Path(arguments.target)
    deployed = load_bundle(arguments.source)
    weights, averaged = deployed.model.state_dict(), None
    if object_store.exists(object_store.join(arguments.source, PLAIN_WEIGHTS_FILE)):
        averaged = weights
        weights = load_bundle(arguments.source, plain_weights=True).model.state_dict()
    training = deployed.config.training
    checkpoint = NvidiaCheckpoint(
        layout="2021",
        weights=weights,
        averaged=averaged,
        epoch=training.get("epoch"),
        step=training.get("step"),
        best_wer=training.get("nvidia", {}).get("best_wer", training.get("wer")),
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_nvidia_checkpoint(target, checkpoint, num_parameters=len(list(deployed.model.parameters())))
    except (OSError, RuntimeError) as error:
        raise BundleError(f"{target} cannot be written: {error}") from error
    return {"checkpoint": str(target), "parameters": num_parameters(deployed.model), "averaged": averaged is not None}


def main() -> None:
    """Turn a checkpoint of NVIDIA's Jasper or QuartzNet (NeMo's .nemo too) into a bundle, or with --back a bundle into
    NVIDIA's layout.

    Nothing but tensors is unpickled. Averaged weights are the ones deployed; the others are kept beside them.
    """
    parser = argparse.ArgumentParser(prog="python -m jobs.convert", description=main.__doc__)
    parser.add_argument("source", help="NVIDIA's checkpoint or a .nemo, a local file (with --back: the bundle)")
    parser.add_argument("target", help="folder of the bundle, local or s3:// (with --back: the file to write)")
    parser.add_argument("--config", metavar="FILE", help="NVIDIA's model file, YAML or TOML; unneeded for the presets")
    parser.add_argument(
        "--flavour",
        choices=["default", "nvidia_torch", "nvidia_dali"],
        help="whose features the model was trained with (default: DALI's, for files of 2020 NVIDIA's torch features)",
    )
    parser.add_argument("--back", action="store_true", help="write NVIDIA's layout of 2021")
    arguments = parser.parse_args()
    run_job(partial(_export if arguments.back else _import, arguments))


if __name__ == "__main__":
    main()
