import json
from pathlib import Path

import pytest
import torch
from tones import run_workers, tone_config

from jasper_ray.config.schema import GradientsConfig
from jasper_ray.errors import ConfigError
from jasper_ray.model.bundle import load_bundle
from jasper_ray.training.exchange import exchanging_gradients, set_tf32
from jasper_ray.training.report import read_log
from jasper_ray.training.world import World


@pytest.fixture(scope="module")
def plain_losses(tones: Path, tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return losses(tones, tmp_path_factory.mktemp("plain"), workers=1)


def losses(tones: Path, output: Path, *overrides: str, workers: int = 2) -> list[float]:
    overrides = (*overrides, "training.epochs=3", "checkpoint.every_epochs=3", "training.evaluate_every_epochs=3")
    run_workers(tone_config(tones, output, *overrides), workers)
    return [event["loss"] for event in read_log(str(output)) if event["event"] == "progress"]


@pytest.mark.parametrize(
    ("gradients", "tolerance"),
    [
        ({"bucket_mb": 0.001}, 1e-3),
        ({"compression": "bf16"}, 0.05),
        ({"compression": "fp16"}, 0.01),
        ({"compression": "powersgd", "powersgd_start_step": 3, "powersgd_rank": 2}, 0.5),
    ],
)
def test_two_workers_learn_the_same_however_gradients_travel(
    tones: Path, tmp_path: Path, plain_losses: list[float], gradients: dict[str, object], tolerance: float
) -> None:
    got = losses(tones, tmp_path, f"training.gradients={json.dumps(gradients)}")
    assert len(got) == 12
    assert got == pytest.approx(plain_losses, rel=tolerance)
    if gradients.get("compression", "none") != "none":  # it was in use: the numbers are not those of plain fp32
        assert got != pytest.approx(plain_losses, rel=1e-6)
    assert got[-1] < got[0]
    assert all(tensor.isfinite().all() for tensor in load_bundle(f"{tmp_path}/bundle").model.state_dict().values())


def test_a_static_graph_learns_the_same_where_each_worker_has_one_microbatch(tones: Path, tmp_path: Path) -> None:
    both = ["batching.microbatches_per_step=2", "training.memory_probe=true"]
    one = losses(tones, tmp_path / "one", *both, workers=1)
    static = losses(
        tones, tmp_path / "static", *both, "training.gradients.static_graph=true", "cluster.num_workers=2", workers=2
    )
    assert static == pytest.approx(one, rel=1e-3)
    with pytest.raises(ConfigError, match=r"microbatches_per_step = cluster.num_workers, got 3 and 2"):
        tone_config(tones, tmp_path, "training.gradients.static_graph=true", "cluster.num_workers=2")


def test_two_workers_with_folded_residuals_learn_what_one_learns_with_branches(tones: Path, tmp_path: Path) -> None:
    blocks = [{"filters": 24, "kernel": 11, "stride": 2}, *[{"filters": 24, "kernel": 7, "residual": "dense"}] * 3]
    shared = [f"model.blocks={json.dumps([{**block, 'dropout': 0.1} for block in blocks])}"]
    one = losses(tones, tmp_path / "one", *shared, workers=1)
    folded = losses(tones, tmp_path / "folded", *shared, "training.residuals=folded")
    assert folded == pytest.approx(one, rel=1e-3) and folded != one


def test_one_worker_exchanges_nothing() -> None:
    model = torch.nn.Linear(2, 2)
    assert exchanging_gradients(model, World(), GradientsConfig()) is model


def test_tf32_is_allowed_and_forbidden_for_products_and_convolutions() -> None:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        for allowed in (True, False):
            set_tf32(allowed)
            assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is allowed
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
