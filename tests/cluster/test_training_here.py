import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from tones import prepare_tones, run_workers, tone_config

from jasper_ray.cluster import worker
from jasper_ray.cluster.trainer import run_training_here
from jasper_ray.errors import JasperRayError, LeaseError, NonFiniteError, StorageError
from jasper_ray.storage.lease import Lease
from jasper_ray.training.report import read_log

QUICK = ("training.epochs=2", "schedule.hold_epochs=0", "cluster.metrics=false")


class Events:
    def __init__(self) -> None:
        self.kinds: list[str] = []

    def report(self, kind: str, values: Mapping[str, object]) -> None:
        self.kinds.append(kind)


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tones")
    prepare_tones(root)
    return root


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As a worker of one CPU has it; given back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_run_in_this_process_is_the_same_run(tones: Path, tmp_path: Path) -> None:
    elsewhere, here = (tone_config(tones, tmp_path / name, *QUICK) for name in ("elsewhere", "here"))
    run_workers(elsewhere, 1)
    events = Events()
    figures = run_training_here(here, events)
    assert "JASPER_STORE_PATIENCE_S" not in os.environ  # a process that has trained may go on with something else
    assert figures["finished"] and events.kinds[0] == "start" and "evaluation" in events.kinds
    losses = [[e["loss"] for e in read_log(run.output) if e["event"] == "progress"] for run in (elsewhere, here)]
    assert len(losses[0]) == 8 and losses[0] == losses[1]


@pytest.mark.parametrize(
    ("raised", "expected", "words"),
    [
        (RuntimeError("CUDA out of memory"), JasperRayError, "worker 0 failed: RuntimeError: CUDA out of memory"),
        (StorageError("s3://b/x: failed after 9 attempts"), StorageError, "failed after 9 attempts"),
        (NonFiniteError("diverged"), NonFiniteError, "diverged"),
    ],
)
def test_its_errors_are_those_of_a_worker(
    tones: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    raised: Exception,
    expected: type[Exception],
    words: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(worker, "train_run", fail)
    with pytest.raises(JasperRayError, match=words) as found:
        run_training_here(tone_config(tones, tmp_path, *QUICK), Events())
    assert type(found.value) is expected


def test_a_second_run_into_the_same_output_is_refused(tones: Path, tmp_path: Path) -> None:
    with Lease(str(tmp_path)), pytest.raises(LeaseError):
        run_training_here(tone_config(tones, tmp_path, *QUICK), Events())
