import importlib.util
import logging

import pytest
import torch

from jasper_ray.model import triton_trial
from jasper_ray.model.triton_trial import triton_is_installed, triton_runs

CPU = torch.device("cpu")
tried_again = triton_runs.__wrapped__
"""Without the memory of what came out before."""


def test_triton_is_installed_for_nvidias_gpus_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "triton" or None)
    assert triton_is_installed(torch.device("cuda", 0)) and not triton_is_installed(CPU)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not triton_is_installed(torch.device("cuda", 0))


def test_without_a_gpu_nothing_of_triton_is_tried() -> None:
    assert not triton_runs(CPU)


def test_a_trial_that_runs_is_believed(triton_interpreter: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_trial, "triton_is_installed", lambda device: True)
    assert tried_again(CPU)


def test_where_triton_cannot_run_torch_does_and_the_log_says_why_and_what_to_install(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(name: str) -> None:
        raise RuntimeError("Failed to find C compiler.")

    monkeypatch.setattr(triton_trial, "triton_is_installed", lambda device: True)
    monkeypatch.setattr(triton_trial.importlib, "import_module", fail)
    with caplog.at_level(logging.WARNING):
        assert not tried_again(CPU)
    assert "Triton does not work on cpu" in caplog.text and "Failed to find C compiler." in caplog.text
    assert "apt-get install gcc python3-dev" in caplog.text
