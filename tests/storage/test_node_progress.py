import os
import signal
import subprocess
import sys
from pathlib import Path

from jasper_ray.storage.node_progress import NodeProgress

ANOTHER = """
import sys, time
from pathlib import Path
from jasper_ray.storage.node_progress import NodeProgress
progress = NodeProgress(Path(sys.argv[1]))
progress.publish((0, 3))
print("ready", flush=True)
time.sleep(60)
"""


def test_the_slowest_counts_and_nobody_goes_on_before_all_have_begun(tmp_path: Path) -> None:
    one, other = NodeProgress(tmp_path / "run"), NodeProgress(tmp_path / "run")
    one.publish((1, 0))
    assert one.slowest() is None and other.slowest() is None
    other.publish((0, 9))
    assert one.slowest() == other.slowest() == (0, 9)
    other.publish((1, 2))
    assert one.slowest() == (1, 0)
    other.close()
    other.close()
    one.publish((3, 0))
    assert one.slowest() == (3, 0)
    one.close()
    assert list((tmp_path / "run").iterdir()) == []


def test_a_killed_process_is_out_of_the_group_and_its_file_is_taken_away(tmp_path: Path) -> None:
    mine = NodeProgress(tmp_path)
    mine.publish((2, 0))
    other = subprocess.Popen([sys.executable, "-c", ANOTHER, tmp_path], stdout=subprocess.PIPE, text=True)
    assert other.stdout and other.stdout.readline() == "ready\n"
    assert mine.slowest() == (0, 3)
    os.kill(other.pid, signal.SIGKILL)
    other.wait(timeout=30)
    assert mine.slowest() == (2, 0) and len(list(tmp_path.iterdir())) == 1
    mine.close()
