"""Dashboards as files or into Grafana: `python -m jobs.dashboards build | push --url URL`."""

import argparse
import os
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from jasper_ray.observe.dashboards import dashboard_json, dashboard_text, file_name
from jasper_ray.observe.grafana import Grafana
from jasper_ray.observe.metric_catalogue import metric_table
from jasper_ray.observe.panels import DASHBOARDS
from jobs.entry import run_job

TOKEN_VARIABLE = "GRAFANA_TOKEN"


def _build(arguments: argparse.Namespace) -> Mapping[str, Any]:
    folder = Path(arguments.folder)
    folder.mkdir(parents=True, exist_ok=True)
    for dashboard in DASHBOARDS:
        (folder / file_name(dashboard)).write_text(dashboard_text(dashboard))
    return {"folder": str(folder), "dashboards": [dashboard.uid for dashboard in DASHBOARDS]}


def _push(arguments: argparse.Namespace) -> Mapping[str, Any]:
    grafana = Grafana(arguments.url, arguments.token or os.environ.get(TOKEN_VARIABLE, ""))
    pushed = grafana.push(
        [dashboard_json(dashboard) for dashboard in DASHBOARDS],
        prometheus=arguments.prometheus,
        overwrite=arguments.overwrite,
    )
    return {"url": arguments.url, **asdict(pushed)}


def _metrics(arguments: argparse.Namespace) -> Mapping[str, Any]:
    print(metric_table(), end="")
    return {}


def main() -> None:
    """Write the dashboards as files, put them into a Grafana server, or list the metrics."""
    parser = argparse.ArgumentParser(prog="python -m jobs.dashboards", description=main.__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="write the JSON files")
    build.add_argument("--folder", default="monitoring/dashboards", help="where to (default %(default)s)")
    build.set_defaults(work=_build)
    push = commands.add_parser("push", help="folder, data source and dashboards into Grafana; again changes nothing")
    push.add_argument("--url", required=True, help="of Grafana, for instance https://grafana.example.com")
    push.add_argument("--token", help=f"of a service account (default: the environment's {TOKEN_VARIABLE})")
    push.add_argument("--prometheus", metavar="URL", help="make a data source of this address too (wants role Admin)")
    push.add_argument("--overwrite", action="store_true", help="replace dashboards that were changed in Grafana")
    push.set_defaults(work=_push)
    metrics = commands.add_parser("metrics", help="print the table of all metrics")
    metrics.set_defaults(work=_metrics)
    arguments = parser.parse_args()
    run_job(partial(arguments.work, arguments))


if __name__ == "__main__":
    main()
