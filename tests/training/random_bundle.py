"""A bundle that was never trained and still says something in every frame."""

from pathlib import Path

import torch

from jasper_ray.config.model import BlockConfig, ModelConfig
from jasper_ray.config.speech import FeatureConfig, TextConfig
from jasper_ray.model.bundle import BundleConfig, build_model, save_bundle


def save_random_bundle(folder: Path, *, alphabet: str = "ab") -> str:
    """Random weights and batch-norm statistics; returns where the bundle lies."""
    config = BundleConfig(
        features=FeatureConfig(num_mels=16),
        text=TextConfig(alphabet=alphabet),
        model=ModelConfig(preset=None, blocks=(BlockConfig(filters=24, kernel=11, stride=2),)),
    )
    generator = torch.Generator().manual_seed(5)
    model = build_model(config.model, config.features, config.text)
    for name, values in model.state_dict().items():
        if name.endswith("running_var"):
            values.uniform_(0.5, 2.0, generator=generator)
        elif values.is_floating_point():
            values.normal_(0.0, 0.3, generator=generator)
    save_bundle(folder, config=config, weights=model.state_dict(), plain_weights=None)
    return str(folder)
