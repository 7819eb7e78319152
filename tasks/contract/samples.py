"""What a contract is checked with: small images, a network, and a fresh instance of the spec."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import module_from_spec
from typing import TypeVar

import torch
from torch import Tensor, nn

from tasks.attacks.base import Attack
from tasks.data.arrays import Images
from tasks.data.seeding import Rows
from tasks.defenses.base import Defense
from tasks.specs import Problem

CLASSES, COUNT = 10, 6
"""Number of classes, and of images."""
STEP = 11
"""Step of an attack, to compare with its start."""
POOL = 256
"""Number of images in the pool of a defense that needs one."""
Part = TypeVar("Part", Defense, Attack)


def problem(side: int) -> Problem:
    """The problem for which a spec is resolved: an epsilon of 8/255 and ten classes."""
    return Problem(epsilon=8.0, classes=CLASSES, side=side, pool=POOL)


def sample_images(channels: int, side: int, count: int = COUNT) -> Images:
    """Noise: images, uint8 [count, channels, side, side], the same in each call."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, side, side)
    pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    ids = torch.arange(count)
    return Images(pixels, ids % CLASSES, ids, CLASSES)


def sample_rows(draw: int = 0) -> Rows:
    """Identities of the sample images, all in one draw."""
    places = torch.arange(COUNT)
    return Rows(0, images=places, draws=torch.full_like(places, draw))


@dataclass(frozen=True)
class ElsewhereRows(Rows):
    """Rows in another scope, `told`, and step, with the numbers that they have in no scope."""

    told: str = ""

    def words(self, purpose: str, count: int) -> Tensor:
        """Return the words of no scope, and of those within it."""
        return self._nowhere().words(purpose, count)

    def batch_seed(self, purpose: str) -> int:
        """Return the seed of no scope, and of those within it."""
        return self._nowhere().batch_seed(purpose)

    def _nowhere(self) -> Rows:
        scope = self._scope.removeprefix(self.told)
        step = 0 if self._step == STEP else self._step
        return Rows(self.seed, self.images, self.draws, scope, step)


def elsewhere(rows: Rows, kind: str) -> Iterator[Rows]:
    """Yield rows as a defense gets them in predictions and attacks, with the same numbers."""
    for scope in ("defend", "select", "attack/eot", "attack/judge", "card/gradient/eot"):
        told = f"/{scope}/{kind}#0"
        yield ElsewhereRows(rows.seed, rows.images, rows.draws, told, told=told)
        yield ElsewhereRows(rows.seed, rows.images, rows.draws, told, STEP, told=told)


def sample_network(channels: int, side: int, seed: int = 1) -> nn.Module:
    """A linear network with random weights, for images [N, channels, side, side]."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(channels * side * side, CLASSES))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return network


def anew(spec: Part) -> Part:
    """Return another instance with the same parameters, on which nothing has been called.

    A user's module is executed once more for it, where that is possible, since it may have
    variables that the calls so far have changed.
    """
    cls = type(spec)
    if not cls.__module__.startswith("tasks.") and cls.__name__ == cls.__qualname__:
        with suppress(Exception):
            known = sys.modules[cls.__module__].__spec__
            assert known is not None
            assert known.loader is not None
            module = module_from_spec(known)
            known.loader.exec_module(module)
            fresh: Part = getattr(module, cls.__name__)(**dict(spec))
            return fresh
    return cls(**dict(spec))
