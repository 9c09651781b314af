"""Log-probabilities of a dataset, kept: for what reads them more than once."""

from pathlib import Path

import numpy as np
import torch

from jasper_ray.config.data import DataConfig, LoaderConfig
from jasper_ray.data.loaders import make_loader
from jasper_ray.data.manifest import Manifest
from jasper_ray.data.plan import plan_evaluation
from jasper_ray.data.source import UtteranceSource
from jasper_ray.decoding.decoder import split
from jasper_ray.model.bundle import Bundle
from jasper_ray.storage.shard_cache import ShardCache

BATCH_SECONDS = 160.0


@torch.inference_mode()
def compute_log_probs(bundle: Bundle, manifest: Manifest, *, device: str, threads: int) -> list[np.ndarray]:
    """`(T, V)` log-probabilities of every utterance, in the manifest's order."""
    data = DataConfig()
    cache = ShardCache(Path(data.cache_dir).expanduser(), int(data.cache_max_gb * 1e9))
    source = UtteranceSource(manifest, bundle.alphabet, bundle.config.features, None, 0, cache)
    batches = plan_evaluation(manifest.durations_s, seconds_per_batch=BATCH_SECONDS)
    loader = make_loader(bundle.config.features, LoaderConfig(num_threads=threads))
    found: dict[int, np.ndarray] = {}
    try:
        for batch in loader.load(source.batches(batches)):
            batch = batch.to(torch.device(device))
            log_probs, lengths = bundle.model(batch.features, batch.feature_lengths)
            found |= dict(zip(batch.indices, split(log_probs, lengths), strict=True))
    finally:
        loader.close()
    return [found[row] for row in range(len(manifest))]
