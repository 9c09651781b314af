from pathlib import Path

import pytest
from tones import prepare_tones, tone_config

from jasper_ray.data.loaders import make_loader
from jasper_ray.data.torch_loader import TorchLoader
from jasper_ray.training.assembly import train_run
from jasper_ray.training.report import read_log
from jasper_ray.training.world import World


def test_dali_and_torch_loaders_give_the_same_training(tmp_path: Path) -> None:
    prepare_tones(tmp_path, train=24, evaluation=6)
    losses = {}
    for backend in ("torch", "dali"):
        config = tone_config(tmp_path, tmp_path / backend, f"loader.backend={backend}", "training.epochs=3")
        loader = make_loader(config.features, config.loader)
        assert isinstance(loader, TorchLoader) == (backend == "torch")
        loader.close()
        train_run(config, world=World(), make_loader=lambda c=config: make_loader(c.features, c.loader), reporters=[])
        losses[backend] = [e["loss"] for e in read_log(config.output) if e["event"] == "progress"]
    assert len(losses["torch"]) == 6
    assert losses["dali"] == pytest.approx(losses["torch"], rel=1e-2)
