"""Attacks of torchattacks, by class name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.attacks.libraries.base import LibraryAttack, Measure
from tasks.specs import Passes

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.attacks.libraries.victim_module import VictimModule

FAB = "FAB"
"""Fast Adaptive Boundary attack (Croce and Hein, ICML 2020), the only one here whose cost is
known."""


class TorchattacksAttack(LibraryAttack):
    """An attack of `torchattacks`, such as PGD, APGD or AutoAttack."""

    version: ClassVar[int] = 1
    library: ClassVar[str] = "torchattacks"
    measures: ClassVar[Mapping[str, Measure]] = {
        "BIM": "linf",
        "CW": "l2",
        "DIFGSM": "linf",
        "DeepFool": "l2",
        "EADEN": "l1",
        "EOTPGD": "linf",
        "FFGSM": "linf",
        "FGSM": "linf",
        "JSMA": "l0",
        "Jitter": "linf",
        "MIFGSM": "linf",
        "NIFGSM": "linf",
        "OnePixel": "l0",
        "PGD": "linf",
        "PGDRS": "linf",
        "PIFGSM": "linf",
        "PIFGSMPP": "linf",
        "Pixle": "l0",
        "RFGSM": "linf",
        "SINIFGSM": "linf",
        "SPSA": "linf",
        "SparseFool": "l0",
        "TIFGSM": "linf",
        "TPGD": "linf",
        "UPGD": "linf",
        "VMIFGSM": "linf",
        "VNIFGSM": "linf",
    }
    kind: Literal["torchattacks"] = "torchattacks"

    def forwards_and_backwards(self) -> Passes:
        """The most passes of multi-targeted FAB; NotImplementedError for any other attack."""
        steps, classes = self.parameters.get("steps", 10), self.parameters.get("n_classes", 10)
        towards = self.parameters.get("multi_targeted") is True and self.attack == FAB
        if not (towards and isinstance(steps, int) and isinstance(classes, int)):
            return super().forwards_and_backwards()
        # per step: the gradient, and the prediction at the next point; per class: a ranking
        each = Passes(2, 1) * steps + Passes(forwards=3)
        return each * (classes - 1) + Passes(forwards=1)

    def examples(self, module: VictimModule, pixels: Tensor, aims: Tensor, seed: int) -> Tensor:
        """See `LibraryAttack.examples`."""
        attack = self.made(
            "torchattacks",
            module,
            fill={
                "norm": "Linf" if self.norm == "linf" else "L2",
                "n_classes": module.classes,
                "seed": seed,
                "verbose": False,
            },
            keep="alpha",
        )
        if self.targeted:
            attack.set_mode_targeted_by_function(lambda _, __: aims)
        found: Tensor = attack(pixels, aims)
        return found
