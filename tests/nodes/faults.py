"""Faults played into a running job, one after the other, and what each of them cost."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from machines import Machine
from node_cluster import Job, NodesCluster

from jasper_ray.training.checkpoint import CHECKSUMS_FILE

STEP_WAIT_S = 240.0
FURTHER_STEPS = 3
"""A fault is over when training is so many steps further than it ever was."""
SETTLE_S = 2.0
"""Until steps that were made before the fault have been heard of: twice what an event takes to the driver."""


@dataclass(frozen=True)
class Outcome:
    """What a fault cost."""

    fault: str
    at_step: int
    step_s: float
    """Seconds of a step before it."""
    resumed_after: tuple[int, ...]
    """Of every start since, the step that it went on after."""
    steps_repeated: int
    first_step_s: float
    """From the fault to the first step of the last start since; to the next step if nothing was started anew."""
    seconds_lost: float
    """Until training was `FURTHER_STEPS` further than ever, less what they take."""
    num_workers: int
    """Afterwards."""


class Faults:
    """Plays them.

    Args:
        cluster: Where the job runs.
        job: It.
        output: Its folder on the store.
    """

    def __init__(self, cluster: NodesCluster, job: Job, output: str) -> None:
        self._cluster, self._job, self._output = cluster, job, output
        self._store = cluster.store.client()
        self.outcomes: list[Outcome] = []

    def play(self, name: str, fault: Callable[[], None], *, after_steps: int = 10, at_step: int = 0) -> Outcome:
        """Let training go on for some steps, do harm, wait until it is further than it ever was."""
        self._job.wait_for_step(max(at_step, self._furthest() + after_steps), timeout_s=STEP_WAIT_S)
        step_s = self._job.seconds_per_step(after_steps)
        reached, num_starts = self._furthest(), len(self._job.starts())
        print(f"{name} at step {reached} ({step_s:.2f} s a step)", flush=True)
        began_s = time.monotonic()
        fault()
        time.sleep(SETTLE_S)
        goal = self._furthest() + FURTHER_STEPS
        back_s = self._job.wait_for_step(goal, timeout_s=STEP_WAIT_S, after_s=began_s)
        starts = self._job.starts()[num_starts:]
        anew_s = starts[-1].time_s if starts else began_s
        went_on_s = self._job.wait_for_step(0, timeout_s=STEP_WAIT_S, after_s=anew_s)
        outcome = Outcome(
            fault=name,
            at_step=reached,
            step_s=step_s,
            resumed_after=tuple(start.after_step for start in starts),
            steps_repeated=self._repeated(began_s, back_s),
            first_step_s=went_on_s - began_s,
            seconds_lost=max(0.0, back_s - began_s - (goal - reached) * step_s),
            num_workers=self._job.starts()[-1].num_workers,
        )
        self.outcomes.append(outcome)
        print(outcome, flush=True)
        return outcome

    def _furthest(self, until_s: float = float("inf")) -> int:
        """The furthest step that was heard of before a time; 0 if none."""
        return max((step for time_s, step in self._job.steps() if time_s < until_s), default=0)

    def _repeated(self, from_s: float, to_s: float) -> int:
        """Steps heard of in this time that had been made before."""
        furthest, repeated = 0, 0
        for time_s, step in self._job.steps():
            repeated += step <= furthest and from_s < time_s <= to_s
            furthest = max(furthest, step)
        return repeated

    def kill_worker(self) -> None:
        """`kill -9` of one training process."""
        os.kill(self._cluster.workers(self._busy()[-1])[0], signal.SIGKILL)

    def kill_node(self) -> None:
        """Power cut of a node that does not write checkpoints."""
        self._other().kill()

    def cut_node(self) -> None:
        """Its cable is pulled; what runs on it goes on."""
        self._other().cut()

    def add_nodes(self) -> None:
        """Bring back, as new ones, all that are dead or cut off; returns when training has as many workers."""
        self._cluster.join_missing()
        deadline_s = time.monotonic() + STEP_WAIT_S
        while self._job.starts()[-1].num_workers < len(self._cluster.nodes):
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"no growth: {self._job.tail()}")
            time.sleep(0.1)

    def kill_writer(self) -> None:
        """Power cut of the node that writes a checkpoint, while it writes.

        Raises:
            RuntimeError: It was not seen writing, or had just done so.
        """
        writer, known = self._writer(), set(self._folders())
        deadline_s = time.monotonic() + STEP_WAIT_S
        while time.monotonic() < deadline_s:
            new = [name for name, files in self._folders().items() if CHECKSUMS_FILE not in files and name not in known]
            if new:
                writer.kill()
                left = self._folders()[new[0]]
                print(f"{writer.name} died over {new[0]}, which has {', '.join(left)}", flush=True)
                if CHECKSUMS_FILE in left:
                    raise RuntimeError(f"{new[0]} was whole before its writer died")
                return
        raise RuntimeError("no checkpoint was seen while it was written")

    def lose_packets(self) -> None:
        """5 % of the packets of one node, in and out, for 20 s."""
        with self._other().losing_packets(0.05):
            time.sleep(20)

    def stop_store(self) -> None:
        """The object store refuses connections for 30 s."""
        self._cluster.store.stop()
        time.sleep(30)
        self._cluster.store.start()

    def _folders(self) -> dict[str, list[str]]:
        """Files of each checkpoint on the store."""
        prefix = f"{self._output.removeprefix('s3://jasper/')}/checkpoints/"
        listed = self._store.list_objects_v2(Bucket="jasper", Prefix=prefix).get("Contents", [])
        folders: dict[str, list[str]] = {}
        for entry in listed:
            folder, _, file = entry["Key"].removeprefix(prefix).partition("/")
            folders.setdefault(folder, []).append(file)
        return folders

    def _busy(self) -> list[Machine]:
        """Nodes with a training process, whose cable is in."""
        return [
            node for node in self._cluster.nodes if node.is_up and node.is_connected and self._cluster.workers(node)
        ]

    def _writer(self) -> Machine:
        """Rank 0's node, as the run said when it started."""
        return self._cluster.node_of(self._job.starts()[-1].host)

    def _other(self) -> Machine:
        """A busy node that is not the writer."""
        return next(node for node in self._busy() if node is not self._writer())
