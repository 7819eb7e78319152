"""Measured speeds of this machine's CPU, cached between program runs."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline.catalogue.devices import Speed
from pipeline.store.files import cache_folder, replace_text
from tasks.specs import Precision

MEMORY = "speeds.json"


def known_speeds() -> dict[Precision, Speed]:
    """Measured speed of one core by precision; empty before the first calibration."""
    found: dict[Precision, Speed] = {}
    for precision, flop_per_s in _read().get(_machine(), {}).items():
        if precision in {"float32", "tf32", "bfloat16"} and flop_per_s > 0:
            peak = flop_per_s / 1e12
            found[precision] = Speed(peak_teraflop_per_s=peak, share=1.0, basis="measured")
    return found


def remember_speed(precision: Precision, flop_per_s: float) -> None:
    """Cache a measured speed, in floating-point operations a second, if the cache is writable."""
    known = _read()
    known.setdefault(_machine(), {})[precision] = flop_per_s
    path = cache_folder() / MEMORY
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps(known, indent=1, sort_keys=True))
    except OSError:
        return


def _read() -> dict[str, dict[Precision, float]]:
    try:
        kept = json.loads((cache_folder() / MEMORY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(kept, Mapping):
        return {}
    return {
        str(machine): {
            precision: float(value)
            for precision, value in speeds.items()
            if isinstance(value, int | float)
        }
        for machine, speeds in kept.items()
        if isinstance(speeds, Mapping)
    }


def _machine() -> str:
    """The processor model and the version of torch, which the speed depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "none"
    return f"{names[0] if names else platform.processor() or platform.machine()}, torch {torch}"
