import subprocess
import sys

import pytest

# In a process of its own: what is set stays.
SCRIPT = """
import resource, sys
import torch
from jasper_ray.training.host_memory import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else False
for _ in range(20):  # glibc takes some turns until what it holds suffices
    torch.zeros(16_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.zeros(16_000_000)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(what: str) -> tuple[bool, int]:
    done = subprocess.run([sys.executable, "-c", SCRIPT, what], capture_output=True, text=True, check=True, timeout=120)
    kept, faults = done.stdout.split()
    return kept == "True", int(faults)


def test_freed_memory_is_taken_again_without_page_faults() -> None:
    kept, faults = run("keep")
    if not kept:
        pytest.skip("the C library is not glibc")
    _, usual = run("leave")
    assert faults < 100 < usual  # 64 MB ten times: 156,250 pages of 4 kB, or 312 large ones
