"""A language that a tiny model can learn: `a` is a low tone, `b` a high one; and a run over it in several processes."""

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from jasper_ray.config.data import CorpusConfig
from jasper_ray.config.files import load_run_config
from jasper_ray.config.schema import RunConfig
from jasper_ray.data.preparation import prepare_dataset
from jasper_ray.data.torch_loader import TorchLoader
from jasper_ray.training.assembly import train_run
from jasper_ray.training.world import World

mp.set_forkserver_preload(["tones"])  # torch is imported once, not by every worker

RATE_HZ = 16000
CONFIG_FILE = Path(__file__).with_name("tones.yaml")


def tone(text: str, rng: np.random.Generator) -> np.ndarray:
    pieces = []
    for letter in text:
        hz = {"a": 500.0, "b": 1500.0}[letter] * rng.uniform(0.95, 1.05)
        times_s = np.arange(int(RATE_HZ * rng.uniform(0.09, 0.13))) / RATE_HZ
        pieces += [0.3 * np.sin(2 * np.pi * hz * times_s), np.zeros(int(RATE_HZ * 0.06))]
    wave = np.concatenate(pieces)
    return wave + rng.normal(scale=1e-3, size=len(wave))


def write_corpus(folder: Path, count: int, seed: int) -> Path:
    """A folder with WAV files and their manifest.jsonl."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    rows = []
    for number in range(count):
        text = "".join(rng.choice(["a", "b"], size=rng.integers(1, 7)))
        soundfile.write(folder / f"{number}.wav", tone(text, rng), RATE_HZ, subtype="PCM_16")
        rows.append({"audio": f"{number}.wav", "text": text, "id": f"{folder.name}-{number}", "speaker": "tone"})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def prepare_tones(root: Path, *, train: int = 40, evaluation: int = 20) -> None:
    """Datasets `train` and `evaluation` under `root`."""
    for name, count, seed in (("train", train, 1), ("evaluation", evaluation, 2)):
        corpus = write_corpus(root / f"{name}-corpus", count, seed)
        prepare_dataset([CorpusConfig(source=str(corpus), format="jsonl")], str(root / name), alphabet="ab")


def tone_config(root: Path, output: Path, *overrides: str) -> RunConfig:
    """The run over these datasets."""
    data = [f"data.train=[{{path: {root}/train}}]", f"data.evaluation=[{{path: {root}/evaluation}}]"]
    return load_run_config(CONFIG_FILE, [*data, f"output={output}", *overrides])


def run_workers(config: RunConfig, world_size: int) -> None:
    """Train with so many gloo processes on this machine; their log lies in the run's output."""
    if world_size == 1:
        _train(config, World())
        return
    with tempfile.TemporaryDirectory() as folder:
        # The server that forks workers may be older than the variables of a test's store.
        store = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        arguments = (config.model_dump_json(), world_size, f"{folder}/rendezvous", store)
        mp.start_processes(_worker, arguments, nprocs=world_size, start_method="forkserver")


def _worker(rank: int, config: str, world_size: int, rendezvous: str, store: dict[str, str]) -> None:
    os.environ.update(store)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size)
    _train(RunConfig.model_validate_json(config), World(rank, world_size))
    dist.destroy_process_group()


def _train(config: RunConfig, world: World) -> None:
    loader = config.loader
    train_run(config, world=world, make_loader=lambda: TorchLoader(config.features, loader), reporters=[])
