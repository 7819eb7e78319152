"""What attacks climb: one number for each image that grows as its attack gets nearer its goal."""

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
    """Away from the true classes, or towards the targets where there are some.

    labels: int64 [N]; targets: int64 [N], or None for an untargeted attack. any_wrong: it is
    reached at any wrong class, though it leads towards the targets.
    """

    labels: Tensor
    targets: Tensor | None = None
    any_wrong: bool = False

    def reached(self, logits: Tensor) -> Tensor:
        """bool [N]: whose highest logit, of float [N, classes], is where it should be."""
        predicted = logits.argmax(dim=1)
        if self.targets is None or self.any_wrong:
            return predicted != self.labels
        return predicted == self.targets

    def objective(self, logits: Tensor, loss: Loss) -> Tensor:
        """float [N, classes] to [N], each from its own row.

        cross-entropy: of the label, or minus the target's; margin: the highest other logit minus
        the label's, or the target's minus the highest other; dlr: the difference of logits ratio
        of Croce and Hein (ICML 2020), which is free of the logits' scale and needs three
        classes, four where it is targeted (ValueError).
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
    """How far the highest other logit is above that of `classes`."""
    own = functional.one_hot(classes, logits.shape[1]).bool()
    others = logits.masked_fill(own, -torch.inf).amax(dim=1)
    return others - _column(logits, classes)
