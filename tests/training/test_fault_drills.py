"""What docs/fault-drills.md promises and no other test shows: killed while writing, full disk, bad data on one rank."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tones import run_workers, tone_config

from jasper_ray.config.schema import RunConfig
from jasper_ray.data.batch import Batch
from jasper_ray.data.source import EncodedUtterance
from jasper_ray.data.torch_loader import TorchLoader
from jasper_ray.errors import DataError, NonFiniteError, StorageError
from jasper_ray.training import checkpoint as checkpoints
from jasper_ray.training.assembly import train_run
from jasper_ray.training.checkpoint import find_checkpoints, load_newest
from jasper_ray.training.report import read_log
from jasper_ray.training.world import World

CPU = torch.device("cpu")
TRAIN_AND_STALL = """
import sys, time
from pathlib import Path
from tones import run_workers, tone_config
from jasper_ray.training import checkpoint
written = checkpoint.save_bundle
def stalling(folder, **arguments):
    written(folder, **arguments)
    if "step_00000008" in str(folder):
        Path(sys.argv[3]).touch()
        time.sleep(float(sys.argv[4]))
checkpoint.save_bundle = stalling
import signal
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
run_workers(tone_config(Path(sys.argv[1]), Path(sys.argv[2]), "training.evaluate_every_epochs=6"), 1)
"""


def train_until_step_8_is_being_written(tones: Path, output: Path, *, stall_s: float) -> subprocess.Popen[bytes]:
    begun = output / "begun"
    output.mkdir()
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    process = subprocess.Popen(
        [sys.executable, "-c", TRAIN_AND_STALL, str(tones), str(output), str(begun), str(stall_s)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
    )
    deadline_s = time.monotonic() + 300
    while not begun.exists():
        assert process.poll() is None and time.monotonic() < deadline_s, "the run never wrote its second checkpoint"
        time.sleep(0.05)
    return process


def test_kill_9_while_a_checkpoint_is_written_leaves_the_one_before_and_the_run_goes_on(
    tones: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    process = train_until_step_8_is_being_written(tones, output, stall_s=3600)
    process.kill()
    process.wait()
    assert list((output / "checkpoints").glob(".step_00000008*"))  # the half-written one
    assert [Path(uri).name for uri in find_checkpoints(str(output))] == ["step_00000004"]
    newest = load_newest(str(output), device=CPU)
    assert newest is not None and newest.progress.global_step == 4
    config = tone_config(tones, output, "training.evaluate_every_epochs=6")
    run_workers(config, 1)
    (start,) = (event for event in read_log(str(output)) if event["event"] == "start" and event["global_step"] == 4)
    assert str(start["resumed_from"]).endswith("step_00000004")
    assert load_newest(str(output), device=CPU).progress.global_step == 24
    assert not list((output / "checkpoints").glob(".*"))


def test_sigterm_waits_for_the_checkpoint_that_is_being_written(tones: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    process = train_until_step_8_is_being_written(tones, output, stall_s=2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == 130
    assert [Path(uri).name for uri in find_checkpoints(str(output))] == ["step_00000004", "step_00000008"]
    assert load_newest(str(output), device=CPU).progress.global_step == 8


def test_a_full_disk_ends_the_run_with_its_reason_and_the_checkpoint_before_intact(
    tones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(trainer: object, path: Path) -> None:
        if "step_00000008" in str(path):
            path.write_bytes(b"as much as there was room for")
            raise OSError(28, "No space left on device")
        torch.save(trainer, path)

    monkeypatch.setattr(checkpoints, "torch", SimpleNamespace(save=no_space, load=torch.load))
    config = tone_config(tones, tmp_path, "training.evaluate_every_epochs=6")
    with pytest.raises(StorageError, match=r"step_00000008: the checkpoint could not be written.*No space left.*keep_"):
        run_workers(config, 1)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000004"]  # what was begun is gone
    assert load_newest(str(tmp_path), device=CPU).progress.global_step == 4


def test_a_checkpoint_that_does_not_fit_on_a_real_disk_leaves_the_one_before(tones: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=260k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no right to mount a small disk: {mounted.stderr.decode().strip()}")
    try:
        config = tone_config(tones, disk, "training.evaluate_every_epochs=6", "checkpoint.keep_last=5")
        with pytest.raises(StorageError, match=r"step_0+\d+: the checkpoint could not be written"):
            run_workers(config, 1)
        found = find_checkpoints(str(disk))
        newest = load_newest(str(disk), device=CPU)
        assert found and newest is not None and newest.uri == found[-1]
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


class DamagedLoader(TorchLoader):
    """Features without a number for a micro-batch that holds one of `bad_ids`."""

    bad_ids: frozenset[str] = frozenset()

    def collate(self, utterances: list[EncodedUtterance], features: list[torch.Tensor], rows: object = None) -> Batch:
        if self.bad_ids & {utterance.id for utterance in utterances}:
            features[0].fill_(torch.nan)
        return super().collate(utterances, features, rows)


def train_damaged(rank: int, config_json: str, bad_ids: list[str], bad_rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    config = RunConfig.model_validate_json(config_json)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)

    def make_loader() -> TorchLoader:
        loader = DamagedLoader(config.features, config.loader)
        loader.bad_ids = frozenset(bad_ids) if rank == bad_rank else frozenset()
        return loader

    outcome = "finished"
    try:
        train_run(config, world=World(rank, 2), make_loader=make_loader, reporters=[])
    except NonFiniteError as error:
        outcome = str(error)
    (Path(folder) / f"outcome{rank}").write_text(outcome)
    dist.destroy_process_group()


def run_damaged(config: RunConfig, bad_ids: list[str], folder: Path) -> list[str]:
    """How the run ended on each of two workers; the features of rank 1 are bad."""
    folder.mkdir()
    mp.start_processes(
        train_damaged, (config.model_dump_json(), bad_ids, 1, str(folder)), nprocs=2, start_method="forkserver"
    )
    return [(folder / f"outcome{rank}").read_text() for rank in (0, 1)]


POWERSGD = "training.gradients={compression: powersgd, powersgd_start_step: 2}"


@pytest.mark.parametrize("overrides", [["training.read_every_steps=5"], ["training.read_every_steps=1", POWERSGD]])
def test_a_nan_batch_on_one_of_two_workers_is_skipped_by_both_and_its_utterances_named(
    tones: Path, tmp_path: Path, overrides: list[str]
) -> None:
    config = tone_config(tones, tmp_path / "run", "training.epochs=3", *overrides)
    config = config.model_copy(update={"training": config.training.model_copy(update={"log_every_steps": 6})})
    bad_ids = [f"train-corpus-{number}" for number in range(0, 40, 8)]
    assert run_damaged(config, bad_ids, tmp_path / "workers") == ["finished", "finished"]
    log = read_log(config.output)
    microbatches = {event["global_step"]: event["microbatches"] for event in log if event["event"] == "utterances"}
    # Rank 1 of 2 has the second of three micro-batches.
    bad = {step: ids[1] for step, ids in microbatches.items() if set(bad_ids) & set(ids[1])}
    warnings = {event["global_step"]: event["utterances"] for event in log if event["event"] == "warning"}
    assert bad and {step: sorted(ids) for step, ids in warnings.items()} == {
        step: sorted(ids) for step, ids in bad.items()
    }
    progress = [event for event in log if event["event"] == "progress"]
    assert sum(event["skipped_steps"] for event in progress) == len(bad)
    assert all(math.isfinite(event["loss"]) for event in progress)
    newest = load_newest(config.output, device=CPU)
    assert newest is not None and all(tensor.isfinite().all() for tensor in newest.weights.values())


def test_nan_batches_beyond_the_patience_stop_all_workers_with_the_names(tones: Path, tmp_path: Path) -> None:
    config = tone_config(tones, tmp_path / "run", "training.max_nonfinite_steps=2")
    everything = [f"train-corpus-{number}" for number in range(40)]
    outcomes = run_damaged(config, everything, tmp_path / "workers")
    assert outcomes[0] == outcomes[1]
    assert "3 steps in a row" in outcomes[0] and "train-corpus-" in outcomes[0]
    assert not find_checkpoints(config.output)


def test_an_utterance_longer_than_the_budget_ends_the_run_before_it_begins(tones: Path, tmp_path: Path) -> None:
    overrides = ["batching.policy=seconds", "batching.seconds_per_microbatch=0.5"]
    with pytest.raises(DataError, match=r"utterance in row \d+ lasts .* more than batching.seconds_per_microbatch=0.5"):
        run_workers(tone_config(tones, tmp_path / "run", *overrides), 1)
    assert not (tmp_path / "run").exists()
