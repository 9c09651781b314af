"""Watch this machine's Ray cluster: `python -m jobs.monitor`, or `make monitor`."""

import argparse
import threading
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

from jasper_ray.cluster.monitor import HOST, Places, start_grafana, start_prometheus, stop
from jobs.entry import console, run_job

SHIPPED = Path(__file__).parents[1] / "monitoring"


def _monitor(arguments: argparse.Namespace) -> Mapping[str, Any]:
    places = Places(
        shipped=SHIPPED,
        data=arguments.data.absolute(),
        ray_temp_dir=arguments.ray_temp_dir,
        prometheus_port=arguments.port,
        grafana_port=arguments.grafana_port,
        alertmanager=arguments.alertmanager,
    )
    prometheus = f"http://{HOST}:{places.prometheus_port}"
    with ExitStack() as stack:
        stack.callback(stop, start_prometheus(places))
        console.print(f"Prometheus: {prometheus}, nodes from {places.ray_temp_dir}; stop with Ctrl-C", highlight=False)
        grafana = start_grafana(places)
        if grafana is None:
            console.print("Grafana is not installed here; python -m jobs.dashboards push sends them to another one")
        else:
            stack.callback(stop, grafana)
            console.print(f"Grafana: http://{HOST}:{places.grafana_port}", highlight=False)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
    return {"prometheus": prometheus, "data": str(places.data)}


def main() -> None:
    """Start Prometheus (and Grafana where it is installed) with the shipped files against this machine's cluster."""
    parser = argparse.ArgumentParser(prog="python -m jobs.monitor", description=main.__doc__)
    parser.add_argument("--data", type=Path, default=Path("runs/monitor"), help="what they keep (default %(default)s)")
    parser.add_argument(
        "--ray-temp-dir", type=Path, default=Path("/tmp/ray"), help="of ray start (default %(default)s)"
    )
    parser.add_argument("--port", type=int, default=9090, help="of Prometheus (default %(default)s)")
    parser.add_argument("--grafana-port", type=int, default=3000, help="of Grafana (default %(default)s)")
    parser.add_argument("--alertmanager", default="127.0.0.1:9093", help="where alerts go (default %(default)s)")
    run_job(partial(_monitor, parser.parse_args()))


if __name__ == "__main__":
    main()
