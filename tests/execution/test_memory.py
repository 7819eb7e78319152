"""Memory that a worker keeps is not asked of the system again."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
if sys.argv[1] == "kept":
    from pipeline.execution.work.memory import keep_freed_memory
    assert keep_freed_memory()
def faults():
    for _ in range(20):
        torch.zeros(50_000_000, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
print(faults() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a setting of the GNU C library")
def test_memory_that_is_kept_is_not_asked_of_the_system_again():
    counts = [
        int(subprocess.check_output([sys.executable, "-c", FAULTS, how], text=True))
        for how in ("kept", "returned")
    ]
    assert counts[0] < 1_000 < counts[1]
