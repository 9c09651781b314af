import itertools
import json
import re
from pathlib import Path

import pytest
import yaml

from jasper_ray.observe.dashboards import dashboard_json, dashboard_text, file_name
from jasper_ray.observe.metric_catalogue import CATALOGUE
from jasper_ray.observe.panel import Dashboard, exported
from jasper_ray.observe.panels import DASHBOARDS

MONITORING = Path(__file__).parents[2] / "monitoring"
EXPORTED = {
    metric.exported + suffix
    for metric in CATALOGUE
    for suffix in (("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",))
}


def names_in(expr: str) -> set[str]:
    return set(re.findall(r"\bray_jasper_[a-z0-9_]+", expr))


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_the_committed_file_is_what_build_writes(dashboard: Dashboard) -> None:
    written = (MONITORING / "dashboards" / file_name(dashboard)).read_text()
    assert written == dashboard_text(dashboard), "run python -m jobs.dashboards build"


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.uid)
def test_panels_lie_beside_each_other(dashboard: Dashboard) -> None:
    panels = dashboard_json(dashboard)["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for one, other in itertools.combinations([panel["gridPos"] for panel in panels], 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in panels)


def test_dashboards_and_alerts_ask_for_metrics_of_the_catalogue_only() -> None:
    asked = set()
    for dashboard in DASHBOARDS:
        asked |= {name for panel in dashboard.panels for query in panel.queries for name in names_in(query.expr)}
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text())
    asked |= {name for group in rules["groups"] for rule in group["rules"] for name in names_in(rule["expr"])}
    assert asked and not asked - EXPORTED


def test_every_metric_of_ours_is_shown_or_watched_somewhere() -> None:
    shown = json.dumps([dashboard_json(dashboard) for dashboard in DASHBOARDS])
    shown += (MONITORING / "alerts.yml").read_text() + (MONITORING / "prometheus.yml").read_text()
    forgotten = [metric.name for metric in CATALOGUE if metric.name not in shown and not metric.name.startswith("nv_")]
    assert forgotten == []


def test_a_metric_that_is_not_in_the_catalogue_is_our_mistake() -> None:
    with pytest.raises(KeyError, match="jasper_train_lost"):
        exported("jasper_train_lost")
