"""The packages that a node needs, from pyproject.toml beside this file, one a line for pip.

`requirements.py EXTRA ...` prints them; with `--check` it prints what is missing or has another version than
constraints.txt says, and ends with status 1 if anything does. It runs before anything is installed: standard library
only.
"""

import argparse
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

FOLDER = Path(__file__).parent
OWN_EXTRAS = re.compile(r"jasper-ray\[(?P<extras>[^\]]+)\]")
NAME = re.compile(r"[A-Za-z0-9._-]+")


def requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """What the project and its extras ask for, with extras that name others of ours followed."""
    project = tomllib.loads(pyproject.read_text())["project"]
    known = project["optional-dependencies"]

    def of(extra: str) -> Iterator[str]:
        if extra not in known:
            raise SystemExit(f"error: no extra {extra!r} in {pyproject}; there are {', '.join(sorted(known))}")
        for requirement in known[extra]:
            ours = OWN_EXTRAS.fullmatch(requirement)
            for other in ours["extras"].split(",") if ours else ():
                yield from of(other.strip())
            if not ours:
                yield requirement

    wanted = [*project["dependencies"], *(requirement for extra in extras for requirement in of(extra))]
    return list(dict.fromkeys(wanted))


def differences(wanted: list[str], constraints: str) -> list[str]:
    """What of `wanted` is missing here, or has another version than its line in `constraints`."""
    pinned = dict(line.split("==") for line in constraints.splitlines() if "==" in line and not line.startswith("#"))
    pinned = {_canonical(name): version for name, version in pinned.items()}
    found = []
    for name in (_name(requirement) for requirement in wanted):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            found.append(f"{name} is missing")
            continue
        if pinned.get(_canonical(name), version) != version:
            found.append(f"{name} {version} is not {pinned[_canonical(name)]}")
    return found


def _name(requirement: str) -> str:
    match = NAME.match(requirement)
    assert match is not None, requirement
    return match[0]


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Print the packages that a node needs, or what this Python lacks of them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("extras", nargs="*", help="extras of pyproject.toml")
    parser.add_argument("--check", action="store_true", help="compare with what is installed")
    parser.add_argument("--without", nargs="*", default=[], metavar="NAME", help="packages that come from elsewhere")
    arguments = parser.parse_args()
    left_out = {_canonical(name) for name in arguments.without}
    wanted = requirements(FOLDER / "pyproject.toml", arguments.extras)
    wanted = [requirement for requirement in wanted if _canonical(_name(requirement)) not in left_out]
    lines = differences(wanted, (FOLDER / "constraints.txt").read_text()) if arguments.check else wanted
    print("\n".join(lines))
    sys.exit(1 if arguments.check and lines else 0)


if __name__ == "__main__":
    main()
