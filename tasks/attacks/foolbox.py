"""Attacks of foolbox, by class name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.attacks.libraries.base import LibraryAttack, Measure
from tasks.registry import imported

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.attacks.libraries.victim_module import VictimModule


class FoolboxAttack(LibraryAttack):
    """An attack of `foolbox.attacks`, such as LinfPGD or L2DeepFoolAttack.

    The norm is part of most class names; HopSkipJumpAttack takes it as its parameter `constraint`.
    """

    version: ClassVar[int] = 1
    library: ClassVar[str] = "foolbox"
    measures: ClassVar[Mapping[str, Measure]] = {
        "AdamPGD": "linf",
        "BoundaryAttack": "l2",
        "DDNAttack": "l2",
        "EADAttack": "l1",
        "FGM": "l2",
        "FGSM": "linf",
        "GenAttack": "linf",
        "MIFGSM": "linf",
        "NewtonFoolAttack": "l2",
        "PGD": "linf",
        "SaltAndPepperNoiseAttack": "l2",
        "VirtualAdversarialAttack": "l2",
    }
    kind: Literal["foolbox"] = "foolbox"

    def measure(self) -> Measure | None:
        """See `LibraryAttack.measure`."""
        if self.attack == "HopSkipJumpAttack":
            return "linf" if self.parameters.get("constraint") == "linf" else "l2"
        return super().measure()

    def examples(self, module: VictimModule, pixels: Tensor, aims: Tensor, seed: int) -> Tensor:  # noqa: ARG002
        """See `LibraryAttack.examples`."""
        foolbox = imported("foolbox", "foolbox")
        attack = self.made("foolbox.attacks", fill={})
        criteria = foolbox.criteria
        goal = criteria.TargetedMisclassification if self.targeted else criteria.Misclassification
        model = foolbox.PyTorchModel(module, bounds=(0, 1), device=pixels.device)
        _, clipped, _ = attack(model, pixels, goal(aims), epsilons=self.ball().radius)
        found: Tensor = clipped
        return found
