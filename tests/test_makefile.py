import re
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent


def test_all_that_skips_without_triton_runs_in_make_test_triton() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    listed = re.search(r"^TRITON_TESTS := ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)
    assert listed is not None
    needing = {
        str(path.relative_to(REPOSITORY))
        for path in (REPOSITORY / "tests").rglob("test_*.py")
        if re.search(r"\b(triton_interpreter|compile_kernels): (None|Callable|CompileKernels)", path.read_text())
    }
    assert needing and needing <= set(listed[1].replace("\\", " ").split())
