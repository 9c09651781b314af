"""Ceph's RADOS Gateway on this machine: one monitor, one object server in memory, one gateway; from Debian's packages.

`apt-get install --no-install-recommends radosgw ceph-mon ceph-osd ceph-common`. Everything lies in one folder and
runs as children of this process; the system's own Ceph, if there is one, is not touched.
"""

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "ceph-authtool", "monmaptool", "radosgw", "radosgw-admin")
ACCESS_KEY, SECRET_KEY = "jasper-test-key", "jasper-test-secret"
CONFIG = """
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{monitor_port}/0
mon initial members = a
public addr = 127.0.0.1
cluster addr = 127.0.0.1
keyring = {folder}/keyring
auth allow insecure global id reclaim = false
run dir = {folder}/run
crash dir = {folder}/run
admin socket = {folder}/run/$name.asok
pid file = {folder}/run/$name.pid
log file = {folder}/log/$name.log
mon data = {folder}/mon
osd data = {folder}/osd
rgw data = {folder}/rgw
osd objectstore = memstore
memstore device bytes = 2147483648
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
[client.rgw]
rgw frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
rgw dynamic resharding = false
rgw run sync thread = false
"""
CAPS = {"mon.": ["mon"], "client.admin": ["mon", "osd", "mgr"], "client.rgw": ["mon", "osd", "mgr"]}


def missing_programs() -> list[str]:
    """Which programs of Ceph are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


@contextmanager
def ceph_server(folder: Path) -> Iterator[str]:
    """A gateway with one user; yields its endpoint."""
    port, monitor_port = _free_port(), _free_port()
    for name in ("run", "log", "mon", "osd", "rgw"):
        (folder / name).mkdir(parents=True)
    config = folder / "ceph.conf"
    fsid = str(uuid.uuid4())
    config.write_text(CONFIG.format(folder=folder, fsid=fsid, port=port, monitor_port=monitor_port))
    keyring = folder / "keyring"
    _run("ceph-authtool", "--create-keyring", keyring)
    for name, services in CAPS.items():
        caps = [part for service in services for part in ("--cap", service, "allow *")]
        _run("ceph-authtool", keyring, "--gen-key", "-n", name, *caps)
    osd_caps = ["--cap", "mon", "allow profile osd", "--cap", "osd", "allow *", "--cap", "mgr", "allow profile osd"]
    _run("ceph-authtool", keyring, "--gen-key", "-n", "osd.0", *osd_caps)
    monmap = folder / "monmap"
    _run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{monitor_port}]", monmap)
    _run("ceph-mon", "-c", config, "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)
    servers: list[subprocess.Popen[bytes]] = []
    try:
        servers.append(_start(folder, "ceph-mon", "-c", config, "-f", "-i", "a", "--keyring", keyring))
        osd = str(uuid.uuid4())
        _run("ceph", "-c", config, "osd", "new", osd)
        _run("ceph-osd", "-c", config, "-i", "0", "--mkfs", "--osd-uuid", osd)
        servers.append(_start(folder, "ceph-osd", "-c", config, "-f", "-i", "0"))
        servers.append(_start(folder, "radosgw", "-c", config, "-f", "-n", "client.rgw"))
        endpoint = f"http://127.0.0.1:{port}"
        _wait_for(endpoint, servers, folder)
        keys = ["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY]
        admin = ["radosgw-admin", "-c", config, "-n", "client.rgw", "user", "create"]
        _run(*admin, "--uid", "test", "--display-name", "test", *keys)
        yield endpoint
    finally:
        for server in reversed(servers):
            server.kill()
            server.wait()


def limit_requests(folder: Path, number: int) -> None:
    """So many requests at a time; more are answered with the gateway's own 503."""
    socket_ = next((folder / "run").glob("client.rgw*.asok"))
    _run("ceph", "--admin-daemon", socket_, "config", "set", "rgw_max_concurrent_requests", str(number))


def _run(*command: object) -> None:
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, f"{command}: {result.stderr}"


def _start(folder: Path, *command: object) -> subprocess.Popen[bytes]:
    with (folder / "log" / f"{command[0]}.out").open("w") as log:
        return subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, env={**os.environ})


def _wait_for(endpoint: str, servers: list[subprocess.Popen[bytes]], folder: Path) -> None:
    deadline_s = time.monotonic() + 120
    while True:
        assert time.monotonic() < deadline_s and all(server.poll() is None for server in servers), folder
        try:
            urllib.request.urlopen(endpoint, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
