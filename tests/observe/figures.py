"""A sink that remembers, and holds everybody to the catalogue."""

from collections.abc import Mapping

from jasper_ray.observe.metric_catalogue import BY_NAME


class Figures:
    """A sink that adds counters up and checks names, labels and signs as the catalogue has them."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def record(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        metric = BY_NAME[name]
        assert set(labels) == set(metric.labels), name
        key = (name, tuple(sorted(labels.items())))
        if metric.kind == "gauge":
            self.values[key] = value
        else:
            assert value >= 0, name
            self.values[key] = self.values.get(key, 0.0) + value

    def of(self, name: str, **labels: str) -> float | None:
        return self.values.get((name, tuple(sorted(labels.items()))))
