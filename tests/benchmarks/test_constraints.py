"""The peers' environment is installed under two files of constraints: pip takes both, or nothing."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def pins(file: Path) -> dict[str, str]:
    """Versions by normalised name (PEP 503)."""
    lines = (line.split("#")[0].split(";")[0].strip() for line in file.read_text().splitlines())
    parts = (line.split("==") for line in lines if "==" in line)
    return {re.sub(r"[-_.]+", "-", name.strip()).lower(): version.strip() for name, version in parts}


def test_the_peers_constraints_do_not_contradict_the_projects() -> None:
    peers = pins(ROOT / "benchmarks" / "peers-constraints.txt")
    project = pins(ROOT / "constraints.txt")

    assert peers["webdataset"] and project["ray"]
    different = {name: (pin, project[name]) for name, pin in peers.items() if project.get(name, pin) != pin}
    assert different == {}
