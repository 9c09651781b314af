"""A panel of a dashboard: a picture with the queries that it shows, and the shapes that come again and again."""

from dataclasses import dataclass, field
from typing import Literal

from jasper_ray.observe.metric_catalogue import BY_NAME

RATE = "$__rate_interval"
RUN = 'run=~"$run"'
DATASET = 'dataset=~"$dataset"'
SWEEP = 'sweep=~"$sweep"'
MODEL = 'model=~"$model"'


@dataclass(frozen=True)
class Query:
    """An expression of PromQL and what its lines are called."""

    expr: str
    legend: str = "__auto"


@dataclass(frozen=True)
class Panel:
    """One picture."""

    title: str
    unit: str
    """As Grafana calls it: s, bytes, percentunit, short, reqps, …"""
    queries: tuple[Query, ...]
    description: str
    kind: Literal["timeseries", "stat"] = "timeseries"
    needs_gpu: bool = False
    """Whether a machine without a GPU has no data for it."""


@dataclass(frozen=True)
class Variable:
    """A choice above the panels: values of a label."""

    name: str
    metric: str

    @property
    def query(self) -> str:
        """As Grafana's Prometheus data source wants it."""
        return f"label_values({exported(self.metric)}, {self.name})"


@dataclass(frozen=True)
class Dashboard:
    """Panels about one thing."""

    uid: str
    title: str
    description: str
    panels: tuple[Panel, ...]
    variables: tuple[Variable, ...] = field(default=())


def exported(name: str, suffix: str = "") -> str:
    """What Prometheus calls a metric of the catalogue; one that is not there is our mistake."""
    return BY_NAME[name].exported + suffix


def newest(name: str, where: str, by: str = "run") -> str:
    """The newest value of a gauge over processes."""
    return f"max by ({by}) ({exported(name)}{{{where}}})"


def rate(name: str, where: str, by: str, suffix: str = "") -> str:
    """Growth of a counter per second, summed."""
    return f"sum by ({by}) (rate({exported(name, suffix)}{{{where}}}[{RATE}]))"


def rare(name: str, where: str, by: str, alive: str) -> str:
    """`rate` of what may never happen: 0 and not nothing while the gauge `alive` is there."""
    return f"{rate(name, where, by)} or 0 * {newest(alive, where, by)}"


def gauge(
    title: str, unit: str, name: str, where: str, by: str = "run", *, kind: Literal["timeseries", "stat"] = "timeseries"
) -> Panel:
    """A gauge by its labels."""
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    return Panel(title, unit, (Query(newest(name, where, by), legend),), BY_NAME[name].help, kind)


def counter(title: str, unit: str, name: str, where: str, by: str) -> Panel:
    """A counter's growth per second."""
    legend = " ".join(f"{{{{{label}}}}}" for label in by.split(", "))
    return Panel(title, unit, (Query(rate(name, where, by), legend),), f"{BY_NAME[name].help}, per second")


def quantiles(title: str, name: str, where: str, by: str) -> Panel:
    """Median, 90 % and 99 % of a histogram."""
    bucket = exported(name, "_bucket")
    legend = f"{{{{{by}}}}}"
    queries = tuple(
        Query(
            f"histogram_quantile({q}, sum by (le, {by}) (rate({bucket}{{{where}}}[{RATE}])))", f"p{q * 100:g} {legend}"
        )
        for q in (0.5, 0.9, 0.99)
    )
    return Panel(title, "s", queries, BY_NAME[name].help)


def ratio(title: str, part: str, whole: str, where: str, by: str, description: str, unit: str = "percentunit") -> Panel:
    """One counter's growth by another's."""
    return Panel(
        title, unit, (Query(f"{rate(part, where, by)} / {rate(whole, where, by)}", f"{{{{{by}}}}}"),), description
    )


def mean_since_start(title: str, total: str, count: str, where: str, by: str, description: str, unit: str) -> Panel:
    """One counter by another since their processes began: for what is too rare to have a mean at every moment."""
    sums = (f"sum by ({by}) ({exported(name)}{{{where}}})" for name in (total, count))
    return Panel(title, unit, (Query(" / ".join(sums), f"{{{{{by}}}}}"),), description)


def share_of_requests(which: str) -> str:
    """Share of the service's requests that are so."""
    requests = exported("jasper_serve_requests_total")
    some = f"sum(rate({requests}{{{MODEL}, {which}}}[{RATE}])) or vector(0)"
    return f"({some}) / sum(rate({requests}{{{MODEL}}}[{RATE}]))"
