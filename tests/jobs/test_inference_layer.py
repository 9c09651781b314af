import pytest

from jasper_ray.errors import ConfigError
from jobs.benchmarks.inference_layer import measure_inference_layer


def test_every_way_computes_the_layer_and_is_compared_with_the_direct_sum() -> None:
    figures = measure_inference_layer(
        16, 5, 2, 40, precisions=["fp32", "fp16", "bf16"], hops=[8, 24], rounds=2, threads=1
    )
    ways = figures["ways"]
    for precision, bound in (("fp32", 1e-5), ("fp16", 2e-3), ("bf16", 2e-2)):
        of_one = {name: way for name, way in ways.items() if name.startswith(precision)}
        assert {f"{precision}, direct"} < set(of_one) and len(of_one) >= 3
        assert of_one[f"{precision}, direct"]["faster"] == pytest.approx(1)
        assert all(0 < way["error"] < bound and way["cpu_ms"] > 0 for way in of_one.values())
    assert {"fp32, hop 8, bmm", "fp32, hop 24, packed", "fp16, hop 24, FBGEMM"} < set(ways)


@pytest.mark.parametrize(
    ("numbers", "hops", "message"),
    [((16, 4, 1, 40), [8], "K must be odd"), ((16, 5, 0, 40), [8], "ROWS"), ((16, 5, 1, 40), [8, 0], "--hops")],
)
def test_a_layer_that_cannot_be_is_refused(numbers: tuple[int, int, int, int], hops: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        measure_inference_layer(*numbers, precisions=["fp32"], hops=hops, rounds=1, threads=1)
