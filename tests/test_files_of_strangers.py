"""No code of a stranger's is run by reading their files, and no secret stands in ours."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
OURS = ("jasper_ray", "jobs", "serve", "tuning", "clusters", "benchmarks")
LOADERS = {"load", "loads", "Unpickler", "read_pickle"}
READS_WHAT_IT_WROTE = {"jasper_ray/inference/export.py": {"torch.jit.load"}}
"""An export is read back in the same breath, for its parity report."""
SECRETS = re.compile(
    r"AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY-----|(?i:secret_access_key)\s*[:=]\s*[\"']?[\w/+]{16,}"
)


def sources() -> Iterator[Path]:
    for folder in OURS:
        yield from sorted((REPOSITORY / folder).rglob("*.py"))


def unsafe_calls(tree: ast.AST) -> Iterator[str]:
    """Calls that would run code out of a file."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        module, _, function = name.rpartition(".")
        if name == "torch.load" and keywords.get("weights_only") != "True":
            yield f"{name} without weights_only=True"
        if (
            module.split(".")[-1] in ("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve")
            and function in LOADERS
        ):
            yield name
        if name in ("np.load", "numpy.load") and keywords.get("allow_pickle", "False") != "False":
            yield f"{name} with allow_pickle"
        if name in ("yaml.load", "yaml.load_all") and "Safe" not in _base(tree, keywords.get("Loader", "")):
            yield f"{name} without a safe loader"
        if name in ("yaml.unsafe_load", "yaml.full_load", "eval", "exec", "pandas.read_pickle", "torch.jit.load"):
            yield name


def _base(tree: ast.AST, loader: str) -> str:
    """A loader, or what a class of the same file is made from."""
    bases = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == loader]
    return ast.unparse(bases[0].bases[0]) if bases else loader


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_file_of_ours_unpickles_what_a_stranger_could_have_written(path: Path) -> None:
    found = set(unsafe_calls(ast.parse(path.read_text())))
    assert found <= READS_WHAT_IT_WROTE.get(str(path.relative_to(REPOSITORY)), set())


@pytest.mark.parametrize(
    "code",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "pickle.loads(data)",
        "ray.cloudpickle.load(f)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "eval(text)",
    ],
)
def test_the_check_finds_what_it_is_for(code: str) -> None:
    assert list(unsafe_calls(ast.parse(code)))


def test_no_secret_stands_in_a_file_that_is_shipped() -> None:
    kinds = ("*.yaml", "*.yml", "*.sh", "*.env", "*.md", "Dockerfile", "Makefile", "*.toml")
    folders = [REPOSITORY, *(REPOSITORY / name for name in (*OURS, "docs"))]
    files = {path for folder in folders for kind in kinds for path in _files(folder, kind)}
    assert files
    assert [path.name for path in files if SECRETS.search(path.read_text())] == []


def _files(folder: Path, kind: str) -> Iterator[Path]:
    yield from (folder.glob(kind) if folder == REPOSITORY else folder.rglob(kind))
