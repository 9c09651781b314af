"""Dashboards as Grafana reads them (its classic JSON, schema 42)."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from jasper_ray.observe.panel import Dashboard, Panel, Variable

SCHEMA_VERSION = 42
COLUMNS, ROW_HEIGHT, STAT_HEIGHT = 24, 8, 4
WIDTH = {"timeseries": 12, "stat": 6}
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
TAG = "jasper_ray"
OPTIONS: dict[str, dict[str, Any]] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value", "graphMode": "area"},
}


def dashboard_json(dashboard: Dashboard) -> dict[str, Any]:
    """A dashboard; the data source is a choice above the panels, so that the same file serves every Grafana."""
    content = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_source_choice(), *(_choice(variable) for variable in dashboard.variables)]},
        "panels": _placed(dashboard.panels),
    }
    return {**content, "tags": [TAG, build_tag(content)]}


def build_tag(content: Mapping[str, Any]) -> str:
    """Names a dashboard's content, so that a change made in Grafana is seen."""
    known = {key: value for key, value in content.items() if key not in ("id", "version", "tags")}
    return "build-" + hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:12]


def dashboard_text(dashboard: Dashboard) -> str:
    """The file's text."""
    return json.dumps(dashboard_json(dashboard), indent=1) + "\n"


def file_name(dashboard: Dashboard) -> str:
    """The file's name."""
    return f"{dashboard.uid}.json"


def _placed(panels: tuple[Panel, ...]) -> list[dict[str, Any]]:
    """From left to right in rows; a row is as high as its panels."""
    placed: list[dict[str, Any]] = []
    x = y = height = 0
    for number, panel in enumerate(panels, start=1):
        width, own = WIDTH[panel.kind], STAT_HEIGHT if panel.kind == "stat" else ROW_HEIGHT
        if x + width > COLUMNS or (x and own != height):
            x, y = 0, y + height
        height = own
        placed.append({**_panel(panel, number), "gridPos": {"x": x, "y": y, "w": width, "h": height}})
        x += width
    return placed


def _panel(panel: Panel, number: int) -> dict[str, Any]:
    custom: dict[str, Any] = {"lineWidth": 1, "fillOpacity": 10, "showPoints": "auto", "spanNulls": True}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "custom": custom if panel.kind == "timeseries" else {}},
            "overrides": [],
        },
        "options": OPTIONS[panel.kind],
        "targets": [
            {"refId": chr(ord("A") + place), "expr": query.expr, "legendFormat": query.legend, "datasource": SOURCE}
            for place, query in enumerate(panel.queries)
        ],
    }


def _source_choice() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _choice(variable: Variable) -> dict[str, Any]:
    return {
        "name": variable.name,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": variable.query, "refId": variable.name},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
