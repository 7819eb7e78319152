"""Attacks of foolbox, by class name."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.attacks.libraries.base import LibraryAttack
from tasks.registry import imported

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.attacks.libraries.asked import Asked


class FoolboxAttack(LibraryAttack):
    """A class of `foolbox.attacks`, such as LinfPGD or L2DeepFoolAttack; its name has the norm."""

    version: ClassVar[int] = 1
    library: ClassVar[str] = "foolbox"
    kind: Literal["foolbox"] = "foolbox"

    def examples(self, module: Asked, pixels: Tensor, aims: Tensor, seed: int) -> Tensor:  # noqa: ARG002
        """See `LibraryAttack.examples`."""
        foolbox = imported("foolbox", "foolbox")
        attack = self.made("foolbox.attacks", fill={})
        criteria = foolbox.criteria
        goal = criteria.TargetedMisclassification if self.targeted else criteria.Misclassification
        model = foolbox.PyTorchModel(module, bounds=(0, 1), device=pixels.device)
        _, clipped, _ = attack(model, pixels, goal(aims), epsilons=self.ball().radius)
        found: Tensor = clipped
        return found
