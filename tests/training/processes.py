"""Processes of this machine as /proc tells them."""

from pathlib import Path


def descendants(root: int) -> set[int]:
    """Processes whose ancestor is `root`."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int(_stat(int(folder.name))[1])
            except OSError:
                continue
    found: set[int] = set()
    while True:
        more = {pid for pid, parent in parents.items() if parent == root or parent in found} - found
        if not more:
            return found
        found |= more


def is_running(pid: int) -> bool:
    """Whether there is such a process and it is no zombie."""
    try:
        return _stat(pid)[0] != "Z"
    except OSError:
        return False


def command_line(pid: int) -> str:
    """As `ps` shows it; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _stat(pid: int) -> list[str]:
    """State, parent, ... of a process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
