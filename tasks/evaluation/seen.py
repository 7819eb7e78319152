"""What the work of a node shows of a model on the way: nothing is asked of it for this."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from tasks.attacks.base import Victim

ENOUGH = 500
"""Images after which no more answers, or gradients, are looked at."""

_UNIT_SUM = 1e-3


@dataclass
class Seen:
    """Counts of images.

    answers: whose logits were looked at; in_unit_range: of these, whose logits all lie in
    [0, 1]; sum_to_one: of these, whose logits add up to 1 as well. gradients: whose first gradient
    of an attack was looked at; zero_gradients, broken_gradients: of these, whose is zero, or not
    finite.
    """

    answers: int = 0
    in_unit_range: int = 0
    sum_to_one: int = 0
    gradients: int = 0
    zero_gradients: int = 0
    broken_gradients: int = 0

    def facts(self) -> dict[str, int]:
        """The counts by their names."""
        return asdict(self)

    def logits(self, logits: Tensor) -> None:
        """Look at a network's answers, float [N, classes]."""
        if self.answers >= ENOUGH:
            return
        values = logits.detach()
        unit = ((values >= 0) & (values <= 1)).all(dim=1)
        whole = (values.sum(dim=1) - 1).abs() < _UNIT_SUM
        self.answers += len(values)
        self.in_unit_range += int(unit.sum())
        self.sum_to_one += int((unit & whole).sum())

    def gradient(self, gradient: Tensor) -> None:
        """Look at the gradients of images, float [N, C, H, W]."""
        size = gradient.detach().abs().flatten(1).amax(dim=1)
        self.gradients += len(size)
        self.zero_gradients += int((size == 0).sum())
        self.broken_gradients += int((~torch.isfinite(size)).sum())

    def watched(self, victim: Victim, *, bare: bool) -> Victim:
        """The same victim, whose answers, where it is bare, and first gradients are looked at.

        A first gradient is the first that is asked for after step 0.
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
    """A hook for the first of several backward passes."""
    looked = False

    def hook(gradient: Tensor) -> None:
        nonlocal looked
        if not looked:
            looked = True
            snapshot(gradient)

    return hook
