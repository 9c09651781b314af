from collections.abc import Mapping

import pytest

from jobs.benchmarks.metrics_cost import AlternatingRuns, Segments, _ratio


class Remembers:
    def __init__(self) -> None:
        self.events: list[str] = []

    def report(self, kind: str, values: Mapping[str, object]) -> None:
        self.events.append(f"{kind} {values['number']}")


def test_progress_goes_to_the_reporters_in_turn_and_the_warm_up_is_not_timed() -> None:
    metrics, nothing = Remembers(), Remembers()
    runs = AlternatingRuns([metrics], [nothing], warmup=4)
    for number in range(13):
        runs.report("progress", {"number": number})
    # On, off, off, on; four of warm-up; the last report only ends a segment.
    assert metrics.events == [f"progress {number}" for number in (0, 3, 4, 7, 8, 11, 12)]
    assert nothing.events == [f"progress {number}" for number in (1, 2, 5, 6, 9, 10)]
    assert (len(runs.segments.with_metrics), len(runs.segments.without)) == (4, 4)


def test_the_cost_is_the_median_of_neighbours_ratios_with_an_interval_that_holds_it() -> None:
    slow = [(1.01 * seconds, seconds) for seconds in range(1, 101)]
    plain = [(float(seconds), float(seconds)) for seconds in range(1, 101)]
    figures = Segments(slow, plain).figures()
    assert figures["pairs"] == 100
    assert figures["cpu"]["ratio"] == pytest.approx(1.01) and figures["wall"]["ratio"] == pytest.approx(1.0)
    noisy = [(1.0 + number / 1000, 1.0) for number in range(101)]
    interval = _ratio(noisy, [(1.0, 1.0)] * 101, column=0)
    assert interval["ratio"] == pytest.approx(1.05)
    assert interval["at_least"] < interval["ratio"] < interval["at_most"]
    assert interval["at_most"] - interval["at_least"] == pytest.approx(0.02, abs=0.002)
