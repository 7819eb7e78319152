"""`pipeline doctor`: checks whether this machine has what a run needs, one line per item."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline import __version__
from pipeline.observers.tracking.server import wrong_with
from pipeline.plan.words import counted
from pipeline.problems import BadInput, reason_of, unreachable, unwritable
from pipeline.problems.sanitize import without_secrets
from pipeline.store.store import Store

PACKAGES = ("torch", "torchvision", "ray", "pyarrow", "polars", "mlflow", "scikit-learn")


@dataclass(frozen=True)
class Check:
    """Result of one check: its subject, whether it is fine, and what was found."""

    subject: str
    well: bool
    seen: str


def examine(store: str | Path, mlflow_uri: str, address: str | None) -> list[Check]:
    """Check versions, processors, GPU, Ray, the store and MLflow."""
    return [
        _versions(),
        Check("machine", True, f"{platform.machine()}, {os.cpu_count()} CPUs"),
        _gpu(),
        _ray(address),
        _reached("store", lambda: _store(store)),
        _reached("MLflow", lambda: _mlflow(mlflow_uri)),
    ]


def _reached(subject: str, check: Callable[[], Check]) -> Check:
    """A check of a path, which may be one that cannot be looked at."""
    try:
        return check()
    except OSError as error:
        return Check(subject, False, unreachable(error) or reason_of(error))


def _versions() -> Check:
    seen = [f"Python {platform.python_version()}", f"test-time-defense-bench {__version__}"]
    missing = False
    for name in PACKAGES:
        try:
            seen.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            seen.append(f"{name} MISSING")
            missing = True
    return Check("versions", not missing, ", ".join(seen))


def _gpu() -> Check:
    if importlib.util.find_spec("torch") is None:
        return Check("GPU", False, "torch is not installed")
    import torch

    if not torch.cuda.is_available():
        return Check("GPU", True, "none; the CPU does the work")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Check("GPU", True, ", ".join(names))


def _ray(address: str | None) -> Check:
    if importlib.util.find_spec("ray") is None:
        return Check("Ray", False, "not installed; --inline works without it")
    if address is None:
        return Check("Ray", True, "a local one is started for each run that has work")
    from pipeline.execution.executors.ray import cluster_summary

    try:
        return Check("Ray", True, cluster_summary(address))
    except BadInput as problem:
        return Check("Ray", False, str(problem))


def _store(place: str | Path) -> Check:
    try:
        store = Store(place)
        root = store.root
        existed = root is None or root.is_dir()
        if root is None or existed:
            store.prepare()
        elif (reason := unwritable(root)) is not None:
            return Check("store", False, f"{root} cannot be created: {reason}")
    except BadInput as problem:
        return Check("store", False, str(problem))
    artifacts = sum(1 for _ in store.each()) if existed else 0
    seen = f"{store.address}: {counted(artifacts, 'artifact')}"
    if root is not None:
        seen += f", {shutil.disk_usage(_nearest(root)).free / 2**30:.0f} GiB free"
    return Check("store", True, seen)


def _nearest(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _mlflow(uri: str) -> Check:
    if (problem := wrong_with(uri)) is not None:
        return Check("MLflow", False, problem)
    return Check("MLflow", True, without_secrets(uri))
