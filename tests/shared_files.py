"""Real data and models, where tests find them: in no checkout, and beside this one by default."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "PIPELINE_TEST_SHARED"
"""The environment variable that names their folder."""
SHARED = Path(os.environ.get(VARIABLE) or Path(__file__).parents[1].parent / "shared")
CIFAR10 = "data/cifar10"
TEST_IMAGES = f"{CIFAR10}/test-00000-of-00001.parquet"
RESNET20 = "models/cifar10-resnet20-12fca82f.th"
RESNET56 = "models/cifar10-resnet56-4bfd9763.th"
ROBUST_RESNET20 = "models/cifar10-resnet20-robust-9e3874b3.pt"
TABLES = "paper/tables.csv"


def shared_file(place: str) -> Path:
    """A file or folder of them; skips the test where it is not there."""
    path = SHARED / place
    if not path.exists():
        pytest.skip(f"no {place} in {SHARED}, the folder of shared files ({VARIABLE})")
    return path
