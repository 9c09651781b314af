"""A real Prometheus over a real preparation, training, sweep and service: every panel gets data, a fault its alert.

apt-get install prometheus prometheus-alertmanager; `make test-realpeer`. Windows are shortened, expressions are not.
"""

import http.server
import io
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import ray
import soundfile
from tones import CONFIG_FILE, write_corpus

from jasper_ray.cluster.monitor import Places, start_prometheus, stop
from jasper_ray.cluster.preparing import OnTheCluster
from jasper_ray.cluster.ray_metrics import RayMetrics
from jasper_ray.cluster.trainer import run_training, store_variables
from jasper_ray.config.data import CorpusConfig
from jasper_ray.config.files import load_run_config
from jasper_ray.config.schema import RunConfig
from jasper_ray.data.preparation import prepare_dataset
from jasper_ray.observe.metric_catalogue import CATALOGUE
from jasper_ray.observe.panel import Panel
from jasper_ray.observe.panels import DASHBOARDS
from jobs.serve import serving
from serve.app import ServeArgs
from tuning.feed import Audiences
from tuning.records import Records
from tuning.runner import run_sweep, sweep_folder
from tuning.settings import SweepConfig
from tuning.spaces import Space
from tuning.sweep_metrics import SweepMetrics

pytestmark = [
    pytest.mark.realpeer,
    pytest.mark.skipif(
        not (shutil.which("prometheus") and shutil.which("promtool") and shutil.which("prometheus-alertmanager")),
        reason="no prometheus here: apt-get install prometheus prometheus-alertmanager",
    ),
]
SHIPPED = Path(__file__).parents[2] / "monitoring"
REPORTED_S = 4.0
"""A figure is at Prometheus after Ray's report, its export and a scrape."""


class Silent:
    def report(self, kind: str, values: Mapping[str, object]) -> None:
        pass


class NoAudience:
    def show(self, records: object, changed: object, kind: str) -> None:
        pass


@dataclass
class Hook:
    """A webhook that remembers."""

    url: str = ""
    alerts: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Watched:
    """A cluster that is watched, and what ran on it."""

    prometheus: str
    started_s: float
    data: Path
    s3: str
    hook: Hook

    def ask(self, path: str, **query: str) -> Any:
        url = f"{self.prometheus}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=20) as answer:
            return json.load(answer)["data"]

    def over_time(self, expr: str) -> list[Any]:
        """Series of an expression from the beginning to now, with the choices above the panels at `All`."""
        expr = re.sub(r"=~\"\$\w+\"", '=~".*"', expr).replace("$__rate_interval", "20s")
        end = time.time()
        found = self.ask("query_range", query=expr, start=str(self.started_s), end=str(end), step="2")["result"]
        return [one for one in found if any(value != "NaN" for _, value in one["values"])]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def hook() -> Iterator[Hook]:
    hook = Hook()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            hook.alerts += json.loads(self.rfile.read(int(self.headers["Content-Length"])))["alerts"]
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hook.url = f"http://127.0.0.1:{server.server_port}/alerts"
    yield hook
    server.shutdown()


@pytest.fixture(scope="module")
def alertmanager(hook: Hook, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("alertmanager")
    text = (SHIPPED / "alertmanager.yml").read_text()
    text = text.replace("http://127.0.0.1:9094/alerts", hook.url).replace("group_wait: 10s", "group_wait: 1s")
    (folder / "alertmanager.yml").write_text(text)
    address = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [
            "prometheus-alertmanager", f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}",
            f"--web.listen-address={address}", "--cluster.listen-address=",
        ],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    yield address
    stop(process)


@pytest.fixture(scope="module")
def watched(
    alertmanager: str, hook: Hook, s3_bucket: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    shipped = folder / "monitoring"
    shutil.copytree(SHIPPED, shipped)
    config = (shipped / "prometheus.yml").read_text()
    (shipped / "prometheus.yml").write_text(config.replace("interval: 10s", "interval: 1s"))
    os.environ.update({"RAY_metrics_report_interval_ms": "1000"})
    temp = Path("/tmp") / f"jr{os.getpid()}"  # sockets lie in it: their paths must be short
    ray.init(
        address="local", num_cpus=4, object_store_memory=100_000_000, include_dashboard=True, _temp_dir=str(temp),
        _metrics_export_port=free_port(), log_to_driver=False, runtime_env={"env_vars": store_variables()},
    )  # fmt: skip
    places = Places(shipped, folder / "data", temp, free_port(), 0, alertmanager)
    process = start_prometheus(places)
    try:
        yield Watched(f"http://127.0.0.1:{places.prometheus_port}", time.time(), folder, s3_bucket, hook)
    finally:
        stop(process)
        ray.shutdown()
        shutil.rmtree(temp, ignore_errors=True)


@pytest.fixture(scope="module")
def prepared(watched: Watched) -> dict[str, str]:
    """Datasets on the store, made by the cluster."""
    datasets = {}
    for name, count, seed in (("train", 60, 1), ("evaluation", 12, 2)):
        corpus = write_corpus(watched.data / name, count, seed=seed)
        datasets[name] = f"{watched.s3}/watched/{name}"
        prepare_dataset(
            [CorpusConfig(source=str(corpus), format="jsonl")], datasets[name], alphabet="ab",
            run=OnTheCluster(0.5),
        )  # fmt: skip
        time.sleep(REPORTED_S)
    return datasets


def tones(watched: Watched, datasets: Mapping[str, str], name: str, *overrides: str) -> RunConfig:
    return load_run_config(
        CONFIG_FILE,
        [
            f"name={name}", f"output={watched.data}/{name}", f"data.cache_dir={watched.data}/cache",
            *(f"data.{key}=[{{path: '{uri}'}}]" for key, uri in datasets.items()),
            "cluster={num_workers: 2, cpus_per_worker: 0.5}", "training.log_utterances=false", *overrides,
        ],
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(watched: Watched, prepared: dict[str, str]) -> RunConfig:
    config = tones(watched, prepared, "tones", "training.epochs=60", "training.evaluate_every_epochs=10")
    run_training(config, Silent())
    time.sleep(REPORTED_S)
    return config


@pytest.fixture(scope="module")
def swept(watched: Watched, prepared: dict[str, str]) -> None:
    config = tones(watched, prepared, "sweep", "training.epochs=4", "cluster={num_workers: 1, cpus_per_worker: 0.5}")
    sweep = SweepConfig.model_validate(
        {"name": "s", "space": {"optimizer.lr": {"grid": [0.01, 0.02]}}, "search": "grid", "budget": {"trials": 2}}
    )
    metrics = SweepMetrics(RayMetrics(), sweep=sweep.name)
    records = Records(sweep_folder(config, sweep))
    run_sweep(config, sweep, Space(sweep.space, config, source="test"), records, Audiences([NoAudience(), metrics]))
    metrics.end()
    time.sleep(REPORTED_S)


@pytest.fixture(scope="module")
def served(watched: Watched, trained: RunConfig) -> None:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).normal(scale=0.1, size=16000).astype(np.float32)
    soundfile.write(buffer, noise, 16000, format="WAV")
    args = ServeArgs(bundle=f"{trained.output}/bundle", cpus_per_replica=0.5)
    with serving(args, port=0) as url:
        end_s = time.monotonic() + 15
        while time.monotonic() < end_s:
            for content in (buffer.getvalue(), b"no audio"):
                reply = httpx.post(
                    f"{url}/v1/audio/transcriptions", data={"model": "jasper"}, files={"file": content}, timeout=60
                )
                assert reply.status_code in (200, 400)
            httpx.get(f"{url}/v2/health/ready", timeout=60)
        time.sleep(REPORTED_S)


PANELS = [(dashboard.uid, panel) for dashboard in DASHBOARDS for panel in dashboard.panels]


@pytest.mark.usefixtures("prepared", "trained", "swept", "served")
@pytest.mark.parametrize(("uid", "panel"), PANELS, ids=[f"{uid}-{panel.title}" for uid, panel in PANELS])
def test_every_query_of_every_panel_returns_data(watched: Watched, uid: str, panel: Panel) -> None:
    if panel.needs_gpu and not watched.over_time("ray_node_gpus_available"):
        for query in panel.queries:
            watched.over_time(query.expr)  # is understood at least
        pytest.skip("no GPU on this cluster")
    empty = [query.expr for query in panel.queries if not watched.over_time(query.expr)]
    assert not empty


@pytest.mark.usefixtures("prepared", "trained", "swept", "served")
def test_every_metric_of_the_catalogue_came_but_those_of_faults_and_gpus(watched: Watched) -> None:
    there = set(watched.ask("label/__name__/values"))
    missing = {
        metric.name for metric in CATALOGUE if not there & {metric.exported, f"{metric.exported}_bucket", metric.name}
    }
    assert missing <= {
        "jasper_train_flops_utilization_ratio", "jasper_train_skipped_steps_total", "jasper_train_restarts_total",
        "jasper_store_retries_total", "jasper_store_failures_total", "jasper_prepare_rejected_total",
        "jasper_serve_failed_total", "jasper_serve_rejected_total", "nv_inference_request_failure",
    }  # fmt: skip


@pytest.mark.usefixtures("trained", "served")
def test_tritons_names_have_nothing_before_or_behind_them(watched: Watched) -> None:
    assert watched.over_time('nv_inference_count{model="jasper", version="1"}')


def test_a_run_whose_loss_is_not_finite_rings_the_bell(watched: Watched, prepared: dict[str, str]) -> None:
    config = tones(
        watched, prepared, "diverging", "optimizer.lr=1e30", "training.max_nonfinite_steps=1000",
        "training.epochs=40", "training.evaluate_every_epochs=100", "training.ema_decay=0",
    )  # fmt: skip
    run_training(config, Silent())
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s and not watched.hook.alerts:
        time.sleep(0.5)
    alert = watched.hook.alerts[0]
    assert alert["status"] == "firing"
    assert alert["labels"] == {"alertname": "JasperTrainingLossNotFinite", "run": "diverging", "severity": "critical"}


def test_promtool_takes_the_files_and_the_rules_pass_their_tests() -> None:
    for command in (
        ["promtool", "check", "config", str(SHIPPED / "prometheus.yml")],
        ["promtool", "test", "rules", str(SHIPPED / "alerts_test.yml")],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    if shutil.which("amtool"):
        subprocess.run(["amtool", "check-config", str(SHIPPED / "alertmanager.yml")], check=True)
