import logging
from collections.abc import Callable

import pytest

from jasper_ray.inference.trials import Trials

MILLISECONDS = {"sure": 3.0, "quick": 1.0, "slow": 5.0}


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> Trials:
    """What is tried says how long it takes: there need not be a GPU."""
    monkeypatch.setattr(Trials, "_milliseconds", lambda self, run: MILLISECONDS[run()])
    return Trials()


def way(name: str) -> Callable[[], object]:
    return lambda: name


def broken() -> object:
    raise RuntimeError("out of shared memory")


def test_the_quickest_way_is_taken(trials: Trials) -> None:
    assert trials.fastest({name: way(name) for name in MILLISECONDS}) == "quick"
    assert trials.fastest({"sure": way("sure"), "slow": way("slow")}) == "sure"


def test_a_way_that_does_not_work_is_left_out_and_named(trials: Trials, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="jasper_ray"):
        assert trials.fastest({"sure": way("sure"), "quick": broken, "slow": way("slow")}) == "sure"
    assert [record.getMessage() for record in caplog.records] == [
        "not computed by quick, which does not work here: out of shared memory"
    ]


def test_what_must_work_everywhere_may_not_fail_in_silence(trials: Trials) -> None:
    with pytest.raises(RuntimeError, match="out of shared memory"):
        trials.fastest({"sure": broken, "quick": way("quick")})
