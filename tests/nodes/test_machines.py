import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from machines import ROOT, Machines, clear_dead_networks, why_not

pytestmark = [pytest.mark.nodes, pytest.mark.skipif(why_not() is not None, reason=str(why_not()))]


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with Machines(2) as made:
        yield made


def answers(machines: Machines, number: int) -> bool:
    """A port that nobody listens on is refused by a machine that hears the question."""
    try:
        socket.create_connection((machines[number].address, 9), timeout=0.5).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True


def test_a_machine_has_its_own_processes_name_and_folders(machines: Machines) -> None:
    one, two = machines[1], machines[2]
    assert one.run("hostname").stdout.strip() == one.name != two.run("hostname").stdout.strip()
    one.run("sh", "-c", "echo mine > /tmp/file; echo mine > ~/file; echo mine > /dev/shm/file")
    assert two.run("sh", "-c", "cat /tmp/file ~/file /dev/shm/file", check=False).stdout == ""
    assert one.run("sh", "-c", "cat /tmp/file ~/file /dev/shm/file").stdout == "mine\n" * 3
    assert len(one.run("ps", "-e").stdout.splitlines()) < 10
    assert one.run(sys.executable, "-c", "import torch; print(1)").stdout == "1\n"


def test_a_cable_is_pulled_and_a_machine_dies_and_comes_back(machines: Machines) -> None:
    two = machines[2]
    assert answers(machines, 2)
    two.cut()
    assert not answers(machines, 2)
    two.mend()
    assert answers(machines, 2)
    sleeper = two.start("sleep", "600")
    two.kill()
    assert sleeper.wait(5) and not two.is_up and not answers(machines, 2)
    two.boot()
    assert answers(machines, 2) and two.pids("sleep 600") == []


def test_packets_are_lost_only_as_long_as_the_block_lasts(machines: Machines) -> None:
    with machines[1].losing_packets(0.5):
        assert 0 < sum(answers(machines, 1) for _ in range(30)) < 30
    assert all(answers(machines, 1) for _ in range(30))


def test_a_killed_owner_leaves_nothing_that_runs_and_the_next_one_clears_away(machines: Machines) -> None:
    code = "from machines import Machines; m = Machines(1); print(m.number, m[1].pid, flush=True); input()"
    owner = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout is not None
    number, pid = map(int, owner.stdout.readline().split())
    owner.kill()
    owner.wait()
    deadline_s = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()
    clear_dead_networks()
    assert not (ROOT / str(number)).exists() and machines.folder.exists()
    assert f"jrn{number}-" not in subprocess.run(["ip", "netns"], capture_output=True, text=True).stdout
