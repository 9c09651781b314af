"""Machines on one machine: namespaces joined by a bridge, with faults. Needs root; `why_not()` says what is missing.

Each machine has its own network, processes, mounts, host name and IPC, its own /dev/shm, /tmp and home folder. It dies
with the process that made it; what that leaves of a killed one is cleared away by the next `Machines` or by
`python tests/nodes/machines.py down`.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path("/var/tmp/jasper-nodes")  # not below /tmp, which every machine has of its own
ETC = Path("/etc/netns")
REPOSITORY = Path(__file__).parents[2]
PREFIX = "jrn"
MAX_NETWORKS = 90
TOOLS = ("ip", "iptables", "unshare", "nsenter", "setpriv")
BOOT = """
set -e
hostname {name}
mount -t tmpfs -o size=2g tmpfs /dev/shm
{keep}
mount --rbind {home} {real_home}
mount --bind {tmp} /tmp
mkdir -p /run/sshd
set +e
while :; do sleep 3600 & wait $!; done
"""


def why_not() -> str | None:
    """Why machines cannot be made here; None if they can."""
    if os.geteuid() != 0:
        return "machines out of namespaces need root"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"no {', '.join(missing)}: apt-get install iproute2 iptables util-linux"
    probe = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True)
    return f"no namespaces here: {probe.stderr.strip()}" if probe.returncode else None


class Machine:
    """One of them.

    Args:
        name: Of its network namespace, also its host name.
        address: In the network.
        folder: What it keeps over a death: home and /tmp.
    """

    def __init__(self, name: str, address: str, folder: Path) -> None:
        self.name, self.address, self.folder = name, address, folder
        self.home = folder / "home"
        self._init: subprocess.Popen[bytes] | None = None
        self.is_connected = False
        """Whether its network cable is in."""
        self.pid = 0
        """Of its first process, as the host sees it."""

    def boot(self) -> None:
        """Switch it on, with its home and an empty /tmp."""
        assert not self.is_up, self.name
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)
        for folder in (self.home, self.folder / "tmp"):
            folder.mkdir(parents=True, exist_ok=True)
        script = BOOT.format(
            name=self.name, home=self.home, real_home=Path.home(), tmp=self.folder / "tmp", keep=self._keep()
        )
        command = ["ip", "netns", "exec", self.name, "setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid"]
        command += ["--fork", "--kill-child", "--uts", "--ipc", "--mount-proc", "bash", "-c", script]
        with (self.folder / "boot.log").open("ab") as log:
            self._init = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.mend()
        deadline_s = time.monotonic() + 20
        while not self._has_booted():
            if self._init.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"{self.name} did not boot: {(self.folder / 'boot.log').read_text()[-500:]}")
            time.sleep(0.05)

    def _keep(self) -> str:
        """The home folder is another one: what Python needs of the real one is shown in it."""
        lines = []
        for path in {Path(sys.base_prefix), Path(sys.prefix), REPOSITORY}:
            if path.is_relative_to(Path.home()):
                inside = self.home / path.relative_to(Path.home())
                lines += [f"mkdir -p {inside}", f"mount --bind {path} {inside}"]
        return "\n".join(lines)

    def _has_booted(self) -> bool:
        assert self._init is not None
        with suppress(OSError, IndexError):
            children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children").read_text().split()
            self.pid = int(children[0])
            # The last thing that it does.
            return f" {Path('/tmp')} " in Path(f"/proc/{self.pid}/mountinfo").read_text()
        return False

    @property
    def is_up(self) -> bool:
        """Whether its first process runs."""
        return self._init is not None and self._init.poll() is None

    def kill(self) -> None:
        """As by a power cut: nothing is said to anybody, no connection is closed."""
        self.cut()
        self.stop()

    def stop(self) -> None:
        """End all its processes at once; the kernel still closes their connections."""
        if self._init is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, 9)
            self._init.kill()
            self._init.wait()
        for pid in _pids_of(self.name):
            with suppress(ProcessLookupError):
                os.kill(pid, 9)

    def cut(self) -> None:
        """Pull the network cable."""
        self.is_connected = False
        _ip("-n", self.name, "link", "set", "eth0", "down")

    def mend(self) -> None:
        """Plug the network cable in."""
        self.is_connected = True
        _ip("-n", self.name, "link", "set", "eth0", "up")
        # Ray learns its own address from the way out; the cable takes this way with it.
        gateway = f"{self.address.rpartition('.')[0]}.254"
        _ip("-n", self.name, "route", "replace", "default", "via", gateway)

    @contextmanager
    def losing_packets(self, share: float) -> Iterator[None]:
        """Drop this share of the packets that come in, and as many of those that go out."""
        drop = ["-m", "statistic", "--mode", "random", "--probability", f"{share:g}", "-j", "DROP"]
        with self._filtering(["INPUT", "-i", "eth0", *drop], ["OUTPUT", "-o", "eth0", *drop]):
            yield

    @contextmanager
    def not_reaching(self, address: str) -> Iterator[None]:
        """Drop what goes to one address: nobody there answers, nothing is refused."""
        with self._filtering(["OUTPUT", "-d", address, "-j", "DROP"]):
            yield

    @contextmanager
    def _filtering(self, *rules: list[str]) -> Iterator[None]:
        for rule in rules:
            subprocess.run(["ip", "netns", "exec", self.name, "iptables", "-A", *rule], check=True)
        try:
            yield
        finally:
            for rule in rules:
                subprocess.run(["ip", "netns", "exec", self.name, "iptables", "-D", *rule], check=True)

    def command(self, arguments: Sequence[str], variables: Mapping[str, str] | None = None) -> list[str]:
        """What runs a command in it, with an environment of its own."""
        path = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        environment = {"HOME": str(Path.home()), "PATH": path, "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}
        settings = [f"{name}={value}" for name, value in (environment | dict(variables or {})).items()]
        return [
            *["nsenter", "--target", str(self.pid), "--mount", "--pid", "--net", "--uts", "--ipc"],
            *["--wd=" + str(REPOSITORY), "env", "-i", *settings, *arguments],
        ]

    def run(
        self, *arguments: str, variables: Mapping[str, str] | None = None, timeout_s: float = 120, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        command = self.command(arguments, variables)
        # Into files: a daemon that the command leaves behind would keep a pipe open for ever.
        out, err = self.folder / "run.out", self.folder / "run.err"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, timeout=timeout_s)
        texts = [path.read_text(errors="replace") for path in (out, err)]
        if check and done.returncode:
            raise RuntimeError(f"{self.name}: {arguments} ended with {done.returncode}:\n{texts[0]}\n{texts[1]}")
        return subprocess.CompletedProcess(done.args, done.returncode, *texts)

    def start(
        self, *arguments: str, variables: Mapping[str, str] | None = None, log: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command; it ends with the machine."""
        command = self.command(arguments, variables)
        with (log or self.folder / "start.log").open("ab") as file:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)

    def pids(self, word: str) -> list[int]:
        """Processes of this machine whose title holds `word`, as the host numbers them."""
        found = []
        for pid in _pids_of(self.name):
            with suppress(OSError):
                if word in Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"):
                    found.append(pid)
        return found


class Machines:
    """A network of machines; a context, which leaves nothing behind.

    Args:
        count: Machines, with addresses .1, .2, …; the host is .254.
    """

    def __init__(self, count: int) -> None:
        clear_dead_networks()
        self.number = _claim()
        self.folder = ROOT / str(self.number)
        self._bridge = f"{PREFIX}{self.number}"
        self.host_address = self._address(254)
        self._machines: list[Machine] = []
        try:
            _ip("link", "add", self._bridge, "type", "bridge")
            _ip("addr", "add", f"{self.host_address}/24", "dev", self._bridge)
            _ip("link", "set", self._bridge, "up")
            for _ in range(count):
                self.add()
        except BaseException:
            self.down()
            raise

    def add(self) -> Machine:
        """One more machine, switched on."""
        number = len(self._machines) + 1
        name, inner = f"{self._bridge}-{number}", f"{self._bridge}v{number}"
        machine = Machine(name, self._address(number), self.folder / name)
        machine.folder.mkdir(parents=True)
        _ip("netns", "add", name)
        _ip("link", "add", inner, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", inner, "master", self._bridge, "up")
        _ip("-n", name, "addr", "add", f"{machine.address}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "lo", "up")
        # `ip netns exec` shows these files as /etc/hosts and /etc/resolv.conf.
        hosts = [f"10.78.{self.number}.{other} {self._bridge}-{other}\n" for other in range(1, 30)]
        (ETC / name).mkdir(parents=True, exist_ok=True)
        (ETC / name / "hosts").write_text("127.0.0.1 localhost\n" + "".join(hosts))
        # No name server: one that does not answer holds up each connection of torch.distributed for 10 s.
        (ETC / name / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        self._machines.append(machine)
        machine.boot()
        return machine

    def __getitem__(self, number: int) -> Machine:
        """Machine 1, 2, …"""
        assert number >= 1, number
        return self._machines[number - 1]

    def __enter__(self) -> "Machines":
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def down(self) -> None:
        """End every process and take every namespace, the bridge and all files away."""
        for machine in self._machines:
            machine.stop()
        _clear(self.number)

    def _address(self, number: int) -> str:
        return f"10.78.{self.number}.{number}"


def clear_dead_networks() -> None:
    """Take away what processes that are gone have left."""
    for folder in ROOT.iterdir() if ROOT.is_dir() else ():
        owner = (folder / "owner").read_text() if (folder / "owner").exists() else ""
        if owner != _started(int(owner.split()[0] if owner else 0)) and folder.name.isdigit():
            _clear(int(folder.name))


def _claim() -> int:
    ROOT.mkdir(parents=True, exist_ok=True)
    for number in range(MAX_NETWORKS):
        new = ROOT / f".{number}-{os.getpid()}"
        new.mkdir(exist_ok=True)
        (new / "owner").write_text(_started(os.getpid()))
        try:
            new.rename(ROOT / str(number))  # fails where there is one: it is not empty
        except OSError:
            shutil.rmtree(new)
        else:
            return number
    raise RuntimeError(f"{MAX_NETWORKS} networks are up: python tests/nodes/machines.py down")


def _started(pid: int) -> str:
    """A process and when it was started; another one with its number later is another text."""
    try:
        return f"{pid} {Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
    except OSError:
        return ""


def _clear(number: int) -> None:
    bridge = f"{PREFIX}{number}"
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout.splitlines()
    for name in [line.split()[0] for line in listed if line.startswith(f"{bridge}-")]:
        for _ in range(50):
            pids = _pids_of(name)
            if not pids:
                break
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, 9)
            time.sleep(0.1)
        subprocess.run(["ip", "netns", "del", name], check=False)
        shutil.rmtree(ETC / name, ignore_errors=True)
    # A namespace goes some time after `ip netns del`, and only then its cable: the next network would find it there.
    cables = [path.name for path in Path("/sys/class/net").glob(f"{bridge}v*")]
    for name in [*cables, bridge]:
        subprocess.run(["ip", "link", "del", name], check=False, capture_output=True)
    shutil.rmtree(ROOT / str(number), ignore_errors=True)


def _pids_of(namespace: str) -> list[int]:
    listed = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True)
    return [int(line) for line in listed.stdout.split()]


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


if __name__ == "__main__":
    if sys.argv[1:] != ["down"]:
        sys.exit("usage: python tests/nodes/machines.py down")
    clear_dead_networks()
