"""Prometheus, and Grafana where it is installed, against the Ray cluster of this machine with the shipped files."""

import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from jasper_ray.errors import CapacityError, ConfigError

DISCOVERY = "prom_metrics_service_discovery.json"
READY_TIMEOUT_S = 30.0
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Places:
    """Files and ports of a monitor."""

    shipped: Path
    """Folder with prometheus.yml, alerts.yml and dashboards/."""
    data: Path
    """Where Prometheus and Grafana keep what they learn."""
    ray_temp_dir: Path
    """Ray's own, `--temp-dir` of `ray start`."""
    prometheus_port: int
    grafana_port: int
    alertmanager: str
    """host:port of an Alertmanager that is there already, or not."""


def prometheus_config(places: Places) -> dict[str, object]:
    """The shipped configuration with this machine's places in it."""
    config: dict[str, object] = yaml.safe_load((places.shipped / "prometheus.yml").read_text())
    scrape = config["scrape_configs"]
    assert isinstance(scrape, list)
    scrape[0]["file_sd_configs"] = [{"files": [str(places.ray_temp_dir / DISCOVERY)]}]
    config["rule_files"] = [str((places.shipped / "alerts.yml").absolute())]
    config["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": [places.alertmanager]}]}]}
    return config


def start_prometheus(places: Places) -> subprocess.Popen[bytes]:
    """Start Prometheus and wait until it answers.

    Raises:
        ConfigError: It is not installed.
        CapacityError: It ended at once, or does not answer; its last words.
    """
    program = shutil.which("prometheus")
    if program is None:
        raise ConfigError("prometheus is not installed: apt-get install prometheus, or put its binary on the PATH")
    places.data.mkdir(parents=True, exist_ok=True)
    file = places.data / "prometheus.yml"
    file.write_text(yaml.safe_dump(prometheus_config(places)))
    url = f"http://{HOST}:{places.prometheus_port}"
    command = [
        program, f"--config.file={file}", f"--storage.tsdb.path={places.data / 'prometheus'}",
        f"--web.listen-address={HOST}:{places.prometheus_port}",
    ]  # fmt: skip
    return _started(command, places.data / "prometheus.log", f"{url}/-/ready", {})


def start_grafana(places: Places) -> subprocess.Popen[bytes] | None:
    """Start Grafana with the dashboards and the data source provisioned; none where it is not installed."""
    program = shutil.which("grafana")
    home = os.environ.get("GF_PATHS_HOME", "/usr/share/grafana")
    if program is None:
        return None
    provisioning = places.data / "provisioning"
    for name, content in grafana_provisioning(places).items():
        (provisioning / name).parent.mkdir(parents=True, exist_ok=True)
        (provisioning / name).write_text(yaml.safe_dump(content))
    variables = {
        "GF_SERVER_HTTP_ADDR": HOST,
        "GF_SERVER_HTTP_PORT": str(places.grafana_port),
        "GF_PATHS_DATA": str(places.data / "grafana"),
        "GF_PATHS_PROVISIONING": str(provisioning),
        "GF_AUTH_ANONYMOUS_ENABLED": "true",
    }
    url = f"http://{HOST}:{places.grafana_port}/api/health"
    return _started([program, "server", "--homepath", home], places.data / "grafana.log", url, variables)


def grafana_provisioning(places: Places) -> dict[str, dict[str, object]]:
    """Files that tell Grafana of our dashboards and of Prometheus, by their place among its provisioning files."""
    source = {
        "name": "Jasper Prometheus", "uid": "jasper-prometheus", "type": "prometheus", "access": "proxy",
        "url": f"http://{HOST}:{places.prometheus_port}", "isDefault": True,
    }  # fmt: skip
    provider = {"name": "jasper_ray", "folder": "jasper_ray", "type": "file"}
    folder = {"path": str((places.shipped / "dashboards").absolute())}
    return {
        "datasources/jasper.yaml": {"apiVersion": 1, "datasources": [source]},
        "dashboards/jasper.yaml": {"apiVersion": 1, "providers": [{**provider, "options": folder}]},
    }


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server that was started here."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _started(command: list[str], log: Path, ready: str, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **variables}, start_new_session=True
        )
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            with urllib.request.urlopen(ready, timeout=2):
                return process
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    stop(process)
    last = log.read_text(errors="replace").strip().splitlines()[-1:]
    raise CapacityError(f"{command[0]} does not answer at {ready}: {' '.join(last)} (log: {log})")
