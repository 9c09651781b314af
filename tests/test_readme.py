import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCES = sorted(
    path.relative_to(REPOSITORY)
    for folder in ("jasper_ray", "jobs", "serve", "tuning")
    for path in (REPOSITORY / folder).rglob("*.py")
    if path.name != "__init__.py"
)


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_the_readmes_tree_has_a_line_for_every_file(source: Path) -> None:
    tree = (REPOSITORY / "README.md").read_text().partition("## Tree")[2]
    block = re.split(r"\n(?=\S)", tree.partition(f"\n{source.parent.as_posix()}/\n")[2])[0]
    assert any(line.split()[:1] == [source.name] and len(line.split()) > 1 for line in block.splitlines())
