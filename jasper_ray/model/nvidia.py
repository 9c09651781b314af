"""NVIDIA's checkpoint files of Jasper and QuartzNet: read into weights under our names, and written back.

Layouts: 2019/2020 (`jasper_encoder.…`, features among the weights), 2021 (`encoder.layers.…`, with `amp` until November
2021 and `scaler` since). Nothing but tensors and plain containers is unpickled.
"""

import pickle
import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from jasper_ray.config.model import PRESETS, ModelConfig, Preset
from jasper_ray.errors import CheckpointError
from jasper_ray.model.jasper import Jasper

Layout = Literal["2020", "2021", "nemo"]
RENAMED = {"jasper_encoder.encoder.": "encoder.layers.", "jasper_decoder.decoder_layers.": "decoder.layers."}
DROPPED = ("audio_preprocessor.", "acoustic_model.")
"""Of 2019/2020: the mel bank and the window, which follow from the feature settings."""
NO_WER_YET = 10.0**6
"""NVIDIA's `best_wer` before the first evaluation."""


@dataclass(frozen=True)
class NvidiaCheckpoint:
    """What a file holds, under our names of tensors, which are those of 2021."""

    layout: Layout
    weights: dict[str, Tensor]
    averaged: dict[str, Tensor] | None
    """Exponential moving average, where the run kept one."""
    epoch: int | None
    step: int | None
    best_wer: float | None
    """Word error rate from 0 to 1 that the file names: in NVIDIA's best checkpoints that of the best one before."""


def read_nvidia_checkpoint(path: Path) -> NvidiaCheckpoint:
    """Read a file written by NVIDIA's train.py.

    Raises:
        CheckpointError: The file is damaged, holds objects other than tensors and plain values, or no state dict.
    """
    content = load_tensors(path)
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        keys = sorted(map(str, content))[:8] if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(
            f"{path} is not a checkpoint of NVIDIA's train.py: it holds {keys}, expected a dictionary with state_dict"
        )
    raw = content["state_dict"]
    layout: Layout = "2020" if any(name.startswith(tuple(RENAMED)) for name in map(_without_ddp, raw)) else "2021"
    averaged = content.get("ema_state_dict")
    best_wer = content.get("best_wer")
    return NvidiaCheckpoint(
        layout=layout,
        weights=_our_names(raw, f"{path}: state_dict"),
        averaged=_our_names(averaged, f"{path}: ema_state_dict") if averaged else None,
        epoch=content.get("epoch"),
        step=content.get("step"),
        best_wer=best_wer if best_wer is not None and best_wer < NO_WER_YET else None,
    )


def write_nvidia_checkpoint(path: Path, checkpoint: NvidiaCheckpoint, *, num_parameters: int) -> None:
    """Write the layout of 2021, as NVIDIA's train.py and inference.py load it.

    The optimizer begins anew: its state is empty, its settings are NVIDIA's defaults.

    Args:
        path: File to write.
        checkpoint: Weights and where they come from.
        num_parameters: Parameter tensors of the model, which the optimizer's group counts.
    """
    group = {
        "lr": 0.01,
        "betas": (0.95, 0),
        "eps": 1e-8,
        "weight_decay": 1e-3,
        "grad_averaging": False,
        "amsgrad": False,
        "params": list(range(num_parameters)),
    }
    content = {
        "epoch": checkpoint.epoch or 0,
        "step": checkpoint.step or 0,
        "best_wer": NO_WER_YET if checkpoint.best_wer is None else checkpoint.best_wer,
        "state_dict": OrderedDict(checkpoint.weights),
        "ema_state_dict": OrderedDict(checkpoint.averaged) if checkpoint.averaged else None,
        "optimizer": {"state": {}, "param_groups": [group]},
        "scaler": {},
    }
    torch.save(content, path)


def preset_of(weights: dict[str, Tensor]) -> Preset | None:
    """The preset whose encoder has exactly these tensors; none if there is none.

    Stride, dilation and dropout leave no trace in weights: they are taken to be the preset's.
    """
    shapes = _encoder_shapes(weights)
    for preset in get_args(Preset):
        assert preset in PRESETS
        with torch.device("meta"):
            model = Jasper(ModelConfig(preset=preset), num_mels=64, num_labels=29)
        if _encoder_shapes(model.state_dict()) == shapes:
            return preset  # type: ignore[no-any-return]
    return None


def _encoder_shapes(weights: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in weights.items() if name.startswith("encoder.")}


def load_tensors(path: Path, *, shown: str | None = None) -> Any:
    """Unpickle a file of tensors and plain containers.

    Args:
        path: The file.
        shown: What errors call it instead of `path`.

    Raises:
        CheckpointError: It holds anything else, is damaged or is not there.
    """
    name = shown or str(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{name} does not exist") from error
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"the object {found.group(1)}" if found else "something"
        raise CheckpointError(
            f"{name} holds {what} that is neither a tensor nor a plain value; it was not run. Save the file again "
            "with state_dict (and ema_state_dict) only, where you trust it"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{name} cannot be read as a checkpoint, it may be cut short: {error}") from error


def _without_ddp(name: str) -> str:
    return name.removeprefix("module.")


def _our_names(raw: Any, source: str) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for name, tensor in raw.items():
        name = _without_ddp(name)
        if name.startswith(DROPPED):
            continue
        if not isinstance(tensor, Tensor):
            raise CheckpointError(f"{source}: {name} is {type(tensor).__name__}, expected a tensor")
        for theirs, ours in RENAMED.items():
            name = name.replace(theirs, ours, 1) if name.startswith(theirs) else name
        weights[name] = tensor
    return weights
