from jobs.benchmarks.serving import SchedulerBenchmark, measure_scheduler


def test_the_scheduler_is_measured_beside_what_the_model_could_do() -> None:
    figures = measure_scheduler(SchedulerBenchmark(step_ms=1.0, batch_size=4, concurrency=8, seconds=0.1, rounds=1))
    assert figures["ideal_requests_per_s"] == 4000
    assert 0 < figures["share_of_ideal"] < 1.5
    assert figures["alone_p50_ms"] > figures["direct_p50_ms"] >= 1.0
