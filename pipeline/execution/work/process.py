"""Saves and restores the global state of the process around each node.

A user's defense or a library's attack may change torch's default dtype, seed a generator or change
the working folder, which would affect the next node in this process. All such state is restored. If
something cannot be restored, this is reported and the process is not used again.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Setting:
    """A global setting of the process, with functions to read and write it."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]


def _torch_settings() -> list[Setting]:
    cudnn, mkldnn = torch.backends.cudnn, torch.backends.mkldnn

    def attribute(owner: Any, name: str) -> Setting:
        return Setting(
            f"torch.{name}", lambda: getattr(owner, name), lambda old: setattr(owner, name, old)
        )

    return [
        Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
        Setting("torch's default device", torch.get_default_device, _set_default_device),
        Setting("torch's grad mode", torch.is_grad_enabled, torch.set_grad_enabled),
        Setting("torch's threads", torch.get_num_threads, torch.set_num_threads),
        Setting(
            "torch's deterministic algorithms",
            torch.are_deterministic_algorithms_enabled,
            torch.use_deterministic_algorithms,
        ),
        Setting(
            "torch's precision of matrix products",
            torch.get_float32_matmul_precision,
            torch.set_float32_matmul_precision,
        ),
        Setting("torch's anomaly mode", torch.is_anomaly_enabled, torch.set_anomaly_enabled),
        Setting(
            "torch's autocast",
            lambda: torch.is_autocast_enabled("cpu"),
            lambda old: torch.set_autocast_enabled("cpu", old),
        ),
        Setting("torch's denormal numbers", _flushes_denormals, torch.set_flush_denormal),
        attribute(cudnn, "benchmark"),
        attribute(cudnn, "deterministic"),
        attribute(cudnn, "enabled"),
        attribute(cudnn, "allow_tf32"),
        attribute(mkldnn, "enabled"),
    ]


def _process_settings() -> list[Setting]:
    return [
        Setting("the environment", _environment, _set_environment),
        Setting("the working folder", os.getcwd, os.chdir),
        Setting("the filters of warnings", _filters, _set_filters),
        Setting("the way that warnings are shown", _shown_by, _set_shown_by),
        Setting("sys.path", lambda: list(sys.path), lambda old: sys.path.__setitem__(_ALL, old)),
        Setting("sys.argv", lambda: list(sys.argv), lambda old: sys.argv.__setitem__(_ALL, old)),
        Setting("sys.stdout", lambda: sys.stdout, lambda old: setattr(sys, "stdout", old)),
        Setting("sys.stderr", lambda: sys.stderr, lambda old: setattr(sys, "stderr", old)),
        Setting("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
        Setting("NumPy's errors", np.geterr, lambda old: np.seterr(**old)),
        Setting("the timeout of sockets", socket.getdefaulttimeout, socket.setdefaulttimeout),
        Setting("the level of logging", lambda: logging.root.manager.disable, logging.disable),
        Setting(
            "garbage collection", gc.isenabled, lambda old: gc.enable() if old else gc.disable()
        ),
    ]


TRACKER = "mlflow"
"""Module that another thread of an inline run may import meanwhile; its settings are left alone."""
_ALL = slice(None)
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)


@dataclass
class Kept:
    """What a node changed. `left`: settings that could not be restored."""

    left: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    """Settings that the node changed and that were restored."""


@contextlib.contextmanager
def kept() -> Iterator[Kept]:
    """Context manager: restore the global state of the process at the end, even after an error."""
    settings = [*_torch_settings(), *_process_settings()]
    before = [(setting, _state(setting)) for setting in settings]
    handlers = _handlers()
    of_numpy = np.random.get_state()  # noqa: NPY002  that of others
    generators = random.getstate(), of_numpy, torch.get_rng_state()
    on_gpu = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    inference = torch.is_inference_mode_enabled()
    found = Kept()
    try:
        yield found
    finally:
        for setting, old in before:
            _put_back(setting, old, found)
        for number, handler in handlers.items():
            if signal.getsignal(number) is not handler:
                found.changed.append(f"the handler of {number.name}")
                signal.signal(number, handler)
        random.setstate(generators[0])
        np.random.set_state(generators[1])  # noqa: NPY002
        torch.set_rng_state(generators[2])
        if on_gpu is not None:
            torch.cuda.set_rng_state_all(on_gpu)
        if torch.is_inference_mode_enabled() != inference:
            found.left.append("torch's inference mode")


def start_as_new() -> None:
    """Reset torch's settings to their defaults, whatever a module changed during its import."""
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    if torch.get_default_device().type != "cpu":
        torch.set_default_device(None)
    if _flushes_denormals():
        torch.set_flush_denormal(False)
    torch.set_anomaly_enabled(False)
    torch.set_autocast_enabled("cpu", False)


def _put_back(setting: Setting, old: Any, found: Kept) -> None:
    if _state(setting) == old:
        return
    found.changed.append(setting.name)
    with contextlib.suppress(Exception):  # reported below
        setting.write(old)
    if _state(setting) != old:
        found.left.append(setting.name)


def _state(setting: Setting) -> Any:
    """Value of a setting; None if it cannot be read, as a working folder that was deleted."""
    try:
        return setting.read()
    except Exception:  # noqa: BLE001  of whatever library
        return None


def _handlers() -> dict[signal.Signals, Any]:
    if threading.current_thread() is not threading.main_thread():
        return {}
    known = {number: signal.getsignal(number) for number in SIGNALS}
    # a handler that was not installed by Python is None, and cannot be restored
    return {number: handler for number, handler in known.items() if handler is not None}


def _set_default_device(old: torch.device) -> None:
    torch.set_default_device(None if old.type == "cpu" else old)


def _flushes_denormals() -> bool:
    # a denormal number
    return bool((torch.tensor([1e-44], dtype=torch.float32) * 1.0 == 0).item())


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(TRACKER.upper())}


def _set_environment(old: dict[str, str]) -> None:
    for name in _environment().keys() - old.keys():
        del os.environ[name]
    os.environ.update(old)


def _filters() -> list[Any]:
    return [one for one in warnings.filters if not _of_the_tracker(one)]


def _of_the_tracker(one: Any) -> bool:
    return getattr(one[3], "pattern", "").startswith(TRACKER)


def _set_filters(old: list[Any]) -> None:
    own = [one for one in warnings.filters if _of_the_tracker(one)]
    warnings.filters[:] = [*own, *old]  # type: ignore[index]
    # the registry of warnings shown once is tied to the version of the filters
    getattr(warnings, "_filters_mutated", lambda: None)()


def _shown_by() -> Any:
    return warnings.showwarning


def _set_shown_by(old: Any) -> None:
    warnings.showwarning = old
