"""The catalogue's metrics as Ray's: every node exports them to Prometheus with its own."""

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge, Histogram

from jasper_ray.observe.metric_catalogue import BY_NAME


class RayMetrics:
    """A sink in a process of a Ray cluster; costs 3 µs a figure, 12 µs a histogram's."""

    def __init__(self) -> None:
        self._metrics: dict[str, Counter | Gauge | Histogram] = {}

    def record(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """Take a figure; a counter that grew by nothing is left alone, as Ray wants it."""
        metric = self._metrics.get(name)
        if metric is None:
            metric = self._metrics[name] = _made(name)
        tags = dict(labels)
        if isinstance(metric, Gauge):
            metric.set(value, tags)
        elif isinstance(metric, Histogram):
            metric.observe(value, tags)
        elif value > 0:
            metric.inc(value, tags)


class NoMetrics:
    """A sink that forgets."""

    def record(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        """Forget it."""


def _made(name: str) -> Counter | Gauge | Histogram:
    metric = BY_NAME[name]
    if metric.kind == "histogram":
        return Histogram(name, metric.help, boundaries=list(metric.buckets), tag_keys=metric.labels)
    kind = Counter if metric.kind == "counter" else Gauge
    return kind(name, metric.help, tag_keys=metric.labels)
