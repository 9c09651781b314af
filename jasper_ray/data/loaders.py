"""The loader that a config names."""

from jasper_ray.config.data import LoaderConfig
from jasper_ray.config.speech import FeatureConfig
from jasper_ray.data.batch import BatchLoader
from jasper_ray.data.torch_loader import TorchLoader


def make_loader(features: FeatureConfig, config: LoaderConfig) -> BatchLoader:
    """The loader that a config names; DALI is imported only if it is asked for."""
    if config.backend == "torch":
        return TorchLoader(features, config)
    from jasper_ray.data.dali_loader import DaliLoader

    return DaliLoader(features, config)
