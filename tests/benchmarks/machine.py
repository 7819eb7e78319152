"""What a benchmark ran on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch

from pipeline.catalogue.code.libraries import versions_of

LIBRARIES = (
    "test-time-defense-bench",
    "torch",
    "torchattacks",
    "foolbox",
    "adversarial-robustness-toolbox",
    "ray",
    "snakemake",
)


def facts() -> dict[str, str]:
    """Names → values, to be read."""
    found = {
        "processor": _processor(),
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} CPUs",
        "load before": " ".join(f"{load:.1f}" for load in os.getloadavg()),
        "Python": platform.python_version(),
    }
    if torch.cuda.is_available():
        found["GPU"] = torch.cuda.get_device_name()
    return found | versions_of(LIBRARIES)


def _processor() -> str:
    """Its name, and which of the instructions for narrow numbers it has."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    told = {key.strip(): value.strip() for key, value in lines.items()}
    flags = set(told.get("flags", "").split())
    narrow = sorted(flag for flag in flags if "bf16" in flag or flag.startswith("amx"))
    return f"{told.get('model name', platform.machine())} ({', '.join(narrow) or 'no bf16'})"
