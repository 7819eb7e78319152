"""Objectives of attacks: a number for each image, which grows as its attack approaches its goal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Loss = Literal["cross-entropy", "margin", "dlr"]

_TINY = 1e-12


@dataclass(frozen=True)
class Goal:
    """The goal of an attack: away from the true classes, or towards target classes."""

    labels: Tensor
    """int64 [N], the true classes."""
    targets: Tensor | None = None
    """int64 [N], or None for an untargeted attack."""
    any_wrong: bool = False
    """Whether any wrong class reaches the goal, although the objective leads to the targets."""

    def reached(self, logits: Tensor) -> Tensor:
        """Return which images reach the goal by their highest logit, bool [N].

        Args:
            logits: float [N, classes].
        """
        predicted = logits.argmax(dim=1)
        if self.targets is None or self.any_wrong:
            return predicted != self.labels
        return predicted == self.targets

    def objective(self, logits: Tensor, loss: Loss) -> Tensor:
        """Return the objective of each image, float [N, classes] to float [N].

        Args:
            logits: float [N, classes].
            loss: `cross-entropy` of the label, or minus that of the target; `margin`, the highest
                other logit minus that of the label, or the target's logit minus the highest other;
                or `dlr`, the difference of logits ratio of Croce and Hein (ICML 2020), which is
                invariant to the logits' scale.

        Raises:
            ValueError: For `dlr` with fewer than three classes, or four if there are targets.
        """
        if loss == "dlr":
            return self._ratio(logits)
        aims, sign = (self.labels, 1.0) if self.targets is None else (self.targets, -1.0)
        if loss == "cross-entropy":
            return sign * functional.cross_entropy(logits, aims, reduction="none")
        return sign * _lead_over(logits, aims)

    def _ratio(self, logits: Tensor) -> Tensor:
        needed = 3 if self.targets is None else 4
        if logits.shape[1] < needed:
            raise ValueError(f"loss: dlr needs {needed} classes, there are {logits.shape[1]}")
        ordered = logits.sort(dim=1, descending=True).values
        if self.targets is None:
            spread = ordered[:, 0] - ordered[:, 2]
            return _lead_over(logits, self.labels) / spread.clamp_min(_TINY)
        lead = _column(logits, self.targets) - _column(logits, self.labels)
        spread = ordered[:, 0] - (ordered[:, 2] + ordered[:, 3]) / 2
        return lead / spread.clamp_min(_TINY)


def _column(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None])[:, 0]


def _lead_over(logits: Tensor, classes: Tensor) -> Tensor:
    """Return by how much the highest other logit exceeds that of `classes`."""
    own = functional.one_hot(classes, logits.shape[1]).bool()
    others = logits.masked_fill(own, -torch.inf).amax(dim=1)
    return others - _column(logits, classes)
