"""Observations of a model while a node computes, without additional passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tasks.attacks.base import Victim

ENOUGH = 500
"""Number of images after which no more logits, or gradients, are looked at."""

_UNIT_SUM = 1e-3


@dataclass
class Seen:
    """Counts of images, and the first logits."""

    answers: int = 0
    """Images whose logits were looked at."""
    in_unit_range: int = 0
    """Of these, images whose logits are all in [0, 1]."""
    sum_to_one: int = 0
    """Of these, images whose logits also sum to 1."""
    gradients: int = 0
    """Images whose first gradient of an attack was looked at."""
    zero_gradients: int = 0
    """Of these, images whose gradient is zero."""
    broken_gradients: int = 0
    """Of these, images whose gradient is not finite."""
    first: Tensor | None = None
    """The first logits that were looked at, float [N, classes]."""

    def facts(self) -> dict[str, int]:
        """Return the counts by name."""
        return {name: count for name, count in vars(self).items() if isinstance(count, int)}

    def logits(self, logits: Tensor) -> None:
        """Count a network's logits, float [N, classes]."""
        if self.answers >= ENOUGH:
            return
        values = logits.detach()
        if self.first is None:
            self.first = values
        unit = ((values >= 0) & (values <= 1)).all(dim=1)
        whole = (values.sum(dim=1) - 1).abs() < _UNIT_SUM
        self.answers += len(values)
        self.in_unit_range += int(unit.sum())
        self.sum_to_one += int((unit & whole).sum())

    def gradient(self, gradient: Tensor) -> None:
        """Count the gradients of images, float [N, C, H, W]."""
        size = gradient.detach().abs().flatten(1).amax(dim=1)
        self.gradients += len(size)
        self.zero_gradients += int((size == 0).sum())
        self.broken_gradients += int((~torch.isfinite(size)).sum())

    def watched(self, victim: Victim, *, bare: bool) -> Victim:
        """Return the same victim, with its first gradients and, if `bare`, its logits looked at.

        A first gradient is the first one requested at or after a step 0.
        """
        return replace(victim, logits=_Watch(self, victim.logits, bare=bare))


@dataclass
class _Watch:
    seen: Seen
    ask: Callable[[Tensor, int], Tensor]
    bare: bool
    waiting: bool = True

    def __call__(self, pixels: Tensor, step: int) -> Tensor:
        self.waiting |= step == 0
        wanted = self.waiting and torch.is_grad_enabled() and pixels.requires_grad
        if wanted and self.seen.gradients < ENOUGH:
            self.waiting = False
            pixels.register_hook(_once(self.seen.gradient))  # type: ignore[no-untyped-call]
        logits = self.ask(pixels, step)
        if self.bare:
            self.seen.logits(logits)
        return logits


def _once(snapshot: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
    """Return a hook that calls `snapshot` in the first backward pass only."""
    looked = False

    def hook(gradient: Tensor) -> None:
        nonlocal looked
        if not looked:
            looked = True
            snapshot(gradient)

    return hook
