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


RETURNED = """
import time, torch
from pipeline.execution.work.memory import bounded, keep_freed_memory, resident_bytes
keep_freed_memory()
before = resident_bytes()
def freed():
    tensors = [torch.ones(1_000_000, dtype=torch.uint8) for _ in range(400)]
    return tensors[-1]  # the last of them keeps the end of the heap in use
pinned = freed()
kept = resident_bytes() - before
with bounded(above=before + 2 * kept, every=0.05):
    time.sleep(0.3)
    assert resident_bytes() - before > 0.9 * kept
with bounded(above=before, every=0.05):
    for _ in range(100):
        time.sleep(0.05)
        if resident_bytes() - before < kept / 4:
            break
    meanwhile = resident_bytes() - before
with bounded(above=before, every=600.0):
    pinned = freed()
print(kept, meanwhile, resident_bytes() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a call of the GNU C library")
def test_a_process_above_its_bound_returns_what_it_has_freed():
    said = subprocess.check_output([sys.executable, "-c", RETURNED], text=True)
    kept, meanwhile, after = map(int, said.split())
    assert kept > 350_000_000
    assert meanwhile < 50_000_000
    assert after < 50_000_000
