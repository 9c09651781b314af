"""AWS as moto imitates it, for `ray up`: EC2, IAM and SSM on a port of this machine."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3


@contextmanager
def moto_server(home: Path) -> Iterator[dict[str, str]]:
    """The environment in which AWS is moto, and `~` is `home`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (home / "moto.log").open("w")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=log, stderr=log)
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "moto",
        "AWS_SECRET_ACCESS_KEY": "moto",
        "AWS_DEFAULT_REGION": "us-west-2",
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    try:
        _wait(port, server)
        yield environment
    finally:
        server.kill()
        server.wait()
        log.close()


def _wait(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        assert server.poll() is None, "moto ended"
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise AssertionError("moto did not start in 60 s")


def machines() -> list[dict]:
    """EC2's instances that are not gone."""
    reservations = boto3.client("ec2").describe_instances()["Reservations"]
    found = [instance for reservation in reservations for instance in reservation["Instances"]]
    return [instance for instance in found if instance["State"]["Name"] in ("pending", "running")]
