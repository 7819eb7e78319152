"""A process for those who run as their users run them, without what this project sets up."""

from __future__ import annotations

import importlib
import multiprocessing
import time
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

import torch


class Apart:
    """The comparisons of a module made once more in a process that does one call at a time."""

    def __init__(self, module: str, device: str) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._here, there = spawn.Pipe()
        arguments = (module, device, torch.get_num_threads(), there)
        self._process = spawn.Process(target=_serve, args=arguments, daemon=True)
        self._started = False

    def seconds(self, place: int, contender: str) -> float:
        """What a call of a contender of the comparison at that place takes."""
        if not self._started:
            self._process.start()
            self._started = True
        self._here.send((place, contender))
        return float(self._here.recv())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._started:
            self._here.send(None)
            self._process.join()


def _serve(module: str, device: str, threads: int, connection: Connection) -> None:
    torch.set_num_threads(threads)
    found = enumerate(importlib.import_module(module).comparisons(device))
    at, comparison = next(found)
    for place, contender in iter(connection.recv, None):
        while at < place:
            at, comparison = next(found)
        call = comparison.contenders[contender]
        began = time.perf_counter()
        call()
        connection.send(time.perf_counter() - began)
