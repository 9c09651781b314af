import pytest

from jasper_ray.training.latencies import BatchSeconds, latency_figures, percentiles


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert percentiles(values) == {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}
    assert percentiles([3.0]) == {"p50": 3.0, "p90": 3.0, "p95": 3.0, "p99": 3.0}


def test_stages_have_their_own_figures_and_those_of_their_sum() -> None:
    figures = latency_figures([BatchSeconds(data=0.5, model=2.0, decoding=0.25), BatchSeconds(0.25, 1.0, 1.5)])
    assert figures["batches"] == 2
    assert figures["model"] == {"mean": 1.5, "p50": 1.0, "p90": 2.0, "p95": 2.0, "p99": 2.0}
    assert figures["total"]["mean"] == pytest.approx(2.75)
    assert latency_figures([]) == {"batches": 0}
