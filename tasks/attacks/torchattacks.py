"""Attacks of torchattacks, by class name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.attacks.libraries.base import LibraryAttack, Measure

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.attacks.libraries.asked import Asked


class TorchattacksAttack(LibraryAttack):
    """A class of `torchattacks`, such as PGD, APGD or AutoAttack."""

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

    def examples(self, module: Asked, pixels: Tensor, aims: Tensor, seed: int) -> Tensor:
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
