"""Machines with sshd, and a machine of somebody who runs `ray up` against them."""

import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import yaml
from machines import REPOSITORY, Machine, Machines

SSHD_CONFIG = """
Port 22
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
PidFile none
"""
RAY = (sys.executable, "-m", "ray.scripts.scripts")


def why_no_ssh() -> str | None:
    """What is missing for it; None if nothing is."""
    missing = [tool for tool in ("/usr/sbin/sshd", "ssh", "ssh-keygen", "rsync") if shutil.which(tool) is None]
    return f"no {', '.join(missing)}: apt-get install openssh-server openssh-client rsync" if missing else None


class Laptop:
    """Machine 1, from which a cluster of the others is launched: the first of them is its head.

    Args:
        machines: At least 3.
        count: Of the machines that become the cluster.
        cluster_file: As users have it; addresses, user and key are filled in.
    """

    def __init__(self, machines: Machines, count: int, cluster_file: Path) -> None:
        self.machine = machines[1]
        self.nodes = [machines[2 + number] for number in range(count)]
        ssh = self.machine.home / ".ssh"
        ssh.mkdir(mode=0o700, exist_ok=True)
        _make_key(ssh / "id_ed25519")
        for node in self.nodes:
            _start_sshd(node, (ssh / "id_ed25519.pub").read_text())
            # The packages are there, as after an earlier `ray up`.
            (node.home / "jasper_ray_env").symlink_to(sys.prefix)
        config = yaml.safe_load(cluster_file.read_text())
        config["provider"] |= {
            "head_ip": self.nodes[0].address,
            "worker_ips": [node.address for node in self.nodes[1:]],
        }
        config["auth"] = {"ssh_user": "root", "ssh_private_key": "~/.ssh/id_ed25519"}
        config["min_workers"] = config["max_workers"] = count - 1
        self.file = self.machine.folder / "cluster.yaml"
        self.file.write_text(yaml.safe_dump(config))
        self.shared = machines.folder
        """A folder that all machines see."""

    def ray(self, *arguments: str, variables: Mapping[str, str] | None = None, timeout_s: float = 400) -> str:
        """Run `ray ...` on it; returns what it wrote."""
        environment = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", **(variables or {})}
        done = self.machine.run(*RAY, *arguments, variables=environment, timeout_s=timeout_s)
        return done.stdout + done.stderr

    def tunnel(self) -> subprocess.Popen[bytes]:
        """`ray dashboard`: the cluster's port 8265 on this machine; returns when it answers."""
        process = self.machine.start(*RAY, "dashboard", str(self.file), variables={"RAY_USAGE_STATS_ENABLED": "0"})
        probe = "import socket; socket.create_connection(('127.0.0.1', 8265), 1)"
        deadline_s = time.monotonic() + 60
        while self.machine.run(sys.executable, "-c", probe, check=False).returncode:
            if time.monotonic() > deadline_s:
                raise TimeoutError((self.machine.folder / "start.log").read_text()[-2000:])
            time.sleep(1)
        return process

    def submit(self, *command: str) -> str:
        """`ray job submit` of a command with this repository as its working directory; returns what it wrote."""
        options = ["--address", "http://127.0.0.1:8265", "--working-dir", str(REPOSITORY)]
        return self.ray("job", "submit", *options, "--", *command)


def _make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)


def _start_sshd(node: Machine, public_key: str) -> None:
    folder = node.folder / "sshd"
    folder.mkdir()
    _make_key(folder / "host_key")
    (folder / "authorized_keys").write_text(public_key)
    (folder / "config").write_text(SSHD_CONFIG.format(folder=folder))
    node.start("/usr/sbin/sshd", "-D", "-e", "-f", str(folder / "config"))
