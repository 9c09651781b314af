"""A Ray cluster of machines with an S3 server of its own: head, workers, store; and jobs on it, watched as they go."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

import boto3
from machines import REPOSITORY, Machine, Machines

GCS_PORT, STORE_PORT, REDIS_PORT = 6379, 8080, 6380
KEY = {"AWS_ACCESS_KEY_ID": "test:tester", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "us-east-1"}
RAY = (sys.executable, "-m", "ray.scripts.scripts")
RAY_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    # A node that says nothing for about 12 s is dead (docs/failures.md); by default it takes Ray five answers of 10 s.
    "RAY_health_check_initial_delay_ms": "10000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
}
STEP = re.compile(r"\((\d+) of \d+\) \| loss ([0-9.]+|not finite)")
START = re.compile(r"run \S+: .* (\d+) workers,.* written from (\S+)")
RESUMED = re.compile(r"resumed at step (\d+) from")


class Store:
    """OpenStack Swift with its S3 API on a machine; what is stored outlives the server.

    Args:
        machine: Where it runs.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._server: subprocess.Popen[bytes] | None = None
        self.variables = {"AWS_ENDPOINT_URL": f"http://{machine.address}:{STORE_PORT}", **KEY}

    def start(self) -> None:
        """Bring it up, with its bucket `jasper`."""
        log = self.machine.folder / "swift.log"
        log.unlink(missing_ok=True)
        script = str(REPOSITORY / "tests" / "storage" / "swift_server.py")
        folder = str(self.machine.folder / "swift")
        self._server = self.machine.start(
            sys.executable, script, folder, str(STORE_PORT), self.machine.address, log=log
        )
        deadline_s = time.monotonic() + 60
        while "ready" not in log.read_text().splitlines():
            if self._server.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"the store did not start: {log.read_text()[-1000:]}")
            time.sleep(0.05)
        with suppress(self.client().exceptions.BucketAlreadyOwnedByYou):
            self.client().create_bucket(Bucket="jasper")

    def stop(self) -> None:
        """Kill the server: connections are refused from now on."""
        for pid in self.machine.pids("swift_server.py"):
            os.kill(pid, 9)
        assert self._server is not None
        self._server.wait()

    def client(self) -> "boto3.client":
        """For this process."""
        return boto3.client(
            "s3",
            endpoint_url=self.variables["AWS_ENDPOINT_URL"],
            aws_access_key_id=KEY["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEY["AWS_SECRET_ACCESS_KEY"],
            region_name=KEY["AWS_REGION"],
        )


@dataclass(frozen=True)
class Event:
    """A line of a job, when it came."""

    time_s: float
    line: str


@dataclass(frozen=True)
class Start:
    """Workers that began to train, or went on."""

    time_s: float
    num_workers: int
    host: str
    """Of the one that writes."""
    after_step: int = 0


@dataclass
class Job:
    """A job whose lines are read as they come."""

    process: subprocess.Popen[str]
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(Event(time.monotonic(), line.rstrip("\n")))

    def steps(self) -> list[tuple[float, int]]:
        """When each step was heard of; steps may come twice."""
        found = [(event.time_s, STEP.search(event.line)) for event in list(self.events)]
        return [(time_s, int(match.group(1))) for time_s, match in found if match]

    def seconds_per_step(self, count: int) -> float:
        """Mean over the last steps; they are heard of in bunches."""
        times = [time_s for time_s, _ in self.steps()[-count - 1 :]]
        return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 0.0

    def starts(self) -> list[Start]:
        """When training began or went on, in order."""
        found: list[Start] = []
        for event in list(self.events):
            if match := START.search(event.line):
                found.append(Start(event.time_s, int(match.group(1)), match.group(2)))
            elif (match := RESUMED.search(event.line)) and found:
                found[-1] = replace(found[-1], after_step=int(match.group(1)))
        return found

    def wait_for_step(self, step: int, *, timeout_s: float, after_s: float = 0.0) -> float:
        """Wait until training has made `step` (heard after `after_s`); returns when."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            for time_s, number in self.steps():
                if number >= step and time_s > after_s:
                    return time_s
            self._require_running()
            time.sleep(0.02)
        raise TimeoutError(f"no step {step} in {timeout_s:g} s:\n{self.tail()}")

    def wait_for_line(self, text: str, *, timeout_s: float) -> Event:
        """Wait until it has written a line with `text`; returns the first."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            found = [event for event in list(self.events) if text in event.line]
            if found:
                return found[0]
            self._require_running()
            time.sleep(0.1)
        raise TimeoutError(f"no {text!r} in {timeout_s:g} s:\n{self.tail()}")

    def _require_running(self) -> None:
        if self.process.poll() is not None:
            self._reader.join()
            raise RuntimeError(f"the job ended with {self.process.returncode}:\n{self.tail()}")

    def end(self, timeout_s: float) -> int:
        """Wait for its end; returns its exit status."""
        status = self.process.wait(timeout_s)
        self._reader.join()
        return status

    def tail(self, count: int = 40) -> str:
        """Its last lines."""
        return "\n".join(event.line for event in self.events[-count:])


class NodesCluster:
    """Machine 1 is the head and holds the jobs' drivers, machine 2 the store, 3, 4, … are the nodes that work.

    Args:
        machines: At least 3.
        num_nodes: That work, each with one CPU.
        redis: Whether the cluster's state is in a Redis on the store's machine, and so outlives the head.
    """

    def __init__(self, machines: Machines, num_nodes: int, *, redis: bool = False) -> None:
        self.machines = machines
        self.head = machines[1]
        self.store = Store(machines[2])
        self.nodes = [machines[3 + number] for number in range(num_nodes)]
        self.store.start()
        self.variables = {**RAY_VARIABLES, **self.store.variables}
        self.address = f"{self.head.address}:{GCS_PORT}"
        if redis:
            self.variables |= self._start_redis()
        self._start_head()
        for node in self.nodes:  # one by one: Ray gives a node 30 s to start, whatever else the machine does
            self.join(node)

    def _start_redis(self) -> dict[str, str]:
        address = self.store.machine.address
        options = ["--bind", address, "--port", str(REDIS_PORT), "--save", "", "--protected-mode", "no"]
        self.store.machine.start("redis-server", *options, log=self.store.machine.folder / "redis.log")
        return {
            "RAY_REDIS_ADDRESS": f"{address}:{REDIS_PORT}",
            "RAY_external_storage_namespace": "jasper",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
        }

    def _start_head(self) -> None:
        self._ray_start(self.head, ["--head", f"--port={GCS_PORT}", "--num-cpus=0", "--include-dashboard=false"])

    def restart_head(self) -> None:
        """Switch the head on again after its power was cut."""
        self.head.stop()
        self.head.boot()
        self._start_head()

    def join(self, node: Machine) -> None:
        """Start Ray on a machine as a node of the cluster."""
        self._ray_start(node, [f"--address={self.address}", "--num-cpus=1"])

    def join_again(self, node: Machine) -> None:
        """Switch a machine off and on, and join as a new node."""
        node.stop()
        node.boot()
        self.join(node)

    def join_missing(self) -> None:
        """`join_again` for all nodes that are dead or cut off."""
        for node in self.nodes:
            if not (node.is_up and node.is_connected and node.pids("raylet")):
                self.join_again(node)

    def _ray_start(self, machine: Machine, options: Sequence[str]) -> None:
        common = [f"--node-ip-address={machine.address}", "--object-store-memory=80000000", "--disable-usage-stats"]
        for attempt in range(3):
            try:
                machine.run(*RAY, "start", *common, *options, variables=self.variables, timeout_s=180)
            except RuntimeError:
                if attempt == 2:
                    raise
                machine.stop()
                machine.boot()
            else:
                return

    def submit(
        self, *arguments: str, variables: Mapping[str, str] | None = None, machine: Machine | None = None
    ) -> Job:
        """Run a command on a machine, by default the head, connected to the cluster."""
        environment = {**self.variables, "RAY_ADDRESS": self.address, "PYTHONUNBUFFERED": "1", **(variables or {})}
        command = (machine or self.head).command(arguments, environment)
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        return Job(process)

    def train(self, config: str, *overrides: str, machine: Machine | None = None) -> Job:
        """`python -m jobs.train` on a machine, by default the head."""
        return self.submit(sys.executable, "-m", "jobs.train", config, *overrides, machine=machine)

    def node_of(self, name: str) -> Machine:
        """The node with a host name."""
        return next(node for node in self.nodes if node.name == name)

    def workers(self, node: Machine) -> list[int]:
        """Training processes of a node."""
        return node.pids("RayTrainWorker")


@contextmanager
def nodes_cluster(num_nodes: int, *, redis: bool = False) -> Iterator[NodesCluster]:
    """A cluster that is gone, with everything on it, when the block ends; this process can use its store meanwhile."""
    with Machines(2 + num_nodes) as machines:
        cluster = NodesCluster(machines, num_nodes, redis=redis)
        before = {name: os.environ.get(name) for name in cluster.store.variables}
        os.environ.update(cluster.store.variables)
        try:
            yield cluster
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
