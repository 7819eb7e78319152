"""Attacks of the Adversarial Robustness Toolbox (ART), by class name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from tasks.attacks.libraries.base import LibraryAttack, Measure
from tasks.registry import imported

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.attacks.libraries.victim_module import VictimModule


class ARTAttack(LibraryAttack):
    """An attack of `art.attacks.evasion`, such as ProjectedGradientDescent or DeepFool."""

    version: ClassVar[int] = 1
    library: ClassVar[str] = "art"
    measures: ClassVar[Mapping[str, Measure]] = {
        "BasicIterativeMethod": "linf",
        "BoundaryAttack": "l2",
        "DeepFool": "l2",
        "ElasticNet": "l1",
        "NewtonFool": "l2",
        "PixelAttack": "l0",
        "SaliencyMapMethod": "l0",
        "SignOPTAttack": "l2",
        "SimBA": "l2",
        "ThresholdAttack": "linf",
        "VirtualAdversarialMethod": "l2",
        "ZooAttack": "l2",
    }
    kind: Literal["art"] = "art"

    def examples(self, module: VictimModule, pixels: Tensor, aims: Tensor, seed: int) -> Tensor:  # noqa: ARG002
        """See `LibraryAttack.examples`."""
        import torch

        classification = imported("art", "art.estimators.classification")
        estimator = classification.PyTorchClassifier(
            model=module,
            loss=torch.nn.CrossEntropyLoss(),
            input_shape=tuple(pixels.shape[1:]),
            nb_classes=module.classes,
            clip_values=(0.0, 1.0),
            device_type="gpu" if pixels.is_cuda else "cpu",
        )
        attack = self.made(
            "art.attacks.evasion",
            estimator,
            fill={
                "norm": "inf" if self.norm == "linf" else 2,
                "targeted": self.targeted,
                "batch_size": len(pixels),
                "verbose": False,
            },
            keep="eps_step",
        )
        found = attack.generate(x=pixels.cpu().numpy(), y=aims.cpu().numpy())
        return torch.from_numpy(found)
