"""AutoAttack of bare networks beside the attacks of torchattacks: what they leave, and the time.

Two public networks at radii of which they withstand something, and a robust one at 8/255, with
CIFAR-10's first test images of `PIPELINE_TEST_SHARED`. Hours on a CPU: choose with `--only`, and
`--repeats 1`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from harness import Comparison
from subjects import CLASSES, RESNET20, RESNET56, Subject, have, loaded, real_images
from torch import Tensor

from tasks.attacks.autoattack import AutoAttack
from tasks.attacks.base import Victim
from tasks.classifier.frozen import Frozen
from tasks.data.seeding import Rows
from tasks.defenses.none import NoDefense
from tasks.networks.base import Network
from tasks.networks.resnet20 import ResNet20
from tasks.networks.resnet56 import ResNet56
from tasks.specs import Problem

IMAGES = 500
AT_ONCE = 100
"""Images that either is handed at a time."""
OURS, PEER = "ours, float32", "torchattacks"
ROBUST = Path(__file__).parents[2] / (
    "reports/robust-resnet20/weights/cifar10-robust-resnet20.safetensors"
)
Attacked = Callable[[Tensor, Tensor], Tensor]
"""From images and labels to bool [N]: which are answered rightly whatever was tried."""


@dataclass(frozen=True)
class _Case:
    """A network, its weights, and a radius in 1/255."""

    name: str
    network: Network
    weights: Path
    epsilon: float


CASES = (
    _Case("robust-resnet20", ResNet20(), ROBUST, 8.0),
    _Case("resnet20", ResNet20(), RESNET20, 1.0),
    _Case("resnet20", ResNet20(), RESNET20, 0.5),
    _Case("resnet56", ResNet56(), RESNET56, 1.0),
    _Case("resnet56", ResNet56(), RESNET56, 0.5),
)


@dataclass
class _Told:
    """What each contender leaves; a sentence once both have told."""

    lines: list[str] = field(default_factory=list)
    standing: dict[str, Tensor] = field(default_factory=dict)

    def heard(self, name: str, standing: Tensor) -> None:
        if name in self.standing:
            return
        self.standing[name] = standing
        share = 100 * standing.float().mean().item()
        self.lines.append(f"{name} leaves {int(standing.sum())} images standing, {share:.1f} %")
        if len(self.standing) == 2:
            ours, peer = self.standing[OURS], self.standing[PEER]
            self.lines.append(
                f"{int((ours & ~peer).sum())} stand under {OURS} alone, "
                f"{int((peer & ~ours).sum())} under {PEER} alone"
            )


def comparisons(device: str) -> Iterator[Comparison]:
    """One for each network and radius whose files are here."""
    for case in CASES:
        name = f"autoattack-{case.name}-{case.epsilon:g}"
        what = f"AutoAttack at {case.epsilon:g}/255 on {case.name}, {IMAGES} images"
        try:
            module = loaded(case.network, case.weights)
            images = real_images(case.name, case.network, module, IMAGES, device)
        except FileNotFoundError as error:
            told = [f"left out: {error.filename} is not here"]
            yield Comparison(name, what, 0, "images", {}, (), told=told)
            continue
        told = _Told()
        runs = {OURS: _ours(images, case.epsilon)}
        if have(PEER):
            runs[PEER] = _torchattacks(images, case.epsilon)
        else:
            told.lines.append(f"{PEER} is not installed")
        contenders = {own: _run(own, images, run, told) for own, run in runs.items()}
        yield Comparison(
            name, what, IMAGES, "images", contenders, (OURS,), warm_ups=0, told=told.lines
        )


def _run(name: str, images: Subject, attacked: Attacked, told: _Told) -> Callable[[], None]:
    def run() -> None:
        parts = zip(images.pixels.split(AT_ONCE), images.labels.split(AT_ONCE), strict=True)
        found = torch.cat([attacked(pixels, labels) for pixels, labels in parts])
        told.heard(name, found.cpu())

    return run


def _ours(images: Subject, epsilon: float) -> Attacked:
    frozen = Frozen(images.module, classes=CLASSES, device=images.device)
    attack = AutoAttack(epsilon=epsilon).resolved(
        Problem(epsilon=epsilon, classes=CLASSES, side=32, pool=0)
    )
    victim = Victim(lambda pixels, _: frozen.logits(pixels), CLASSES)

    def attacked(pixels: Tensor, labels: Tensor) -> Tensor:
        standing = _right(frozen.logits, pixels, labels)
        ids = torch.arange(len(pixels), device=pixels.device)
        rows = Rows(0, images=ids, draws=torch.zeros_like(ids))
        for number, each in enumerate(attack.tries(NoDefense())):
            left = standing.nonzero()[:, 0]
            if len(left) == 0:
                break
            own = rows.within(f"try {number}")[left]
            made = each.attack.perturb(victim, pixels[left], labels[left], own)
            standing[left] = _right(frozen.logits, made, labels[left])
        return standing

    return attacked


def _torchattacks(images: Subject, epsilon: float) -> Attacked:
    """The same four attacks with the published lengths, since its own AutoAttack has 10 steps."""
    import torchattacks

    module, eps = images.module, epsilon / 255
    attack = torchattacks.MultiAttack(
        [
            torchattacks.APGD(module, eps=eps, steps=100, seed=0),
            torchattacks.APGDT(module, eps=eps, steps=100, seed=0, n_classes=CLASSES),
            torchattacks.FAB(
                module, eps=eps, steps=100, seed=0, n_classes=CLASSES, multi_targeted=True
            ),
            torchattacks.Square(module, eps=eps, n_queries=5000, seed=0),
        ]
    )

    def attacked(pixels: Tensor, labels: Tensor) -> Tensor:
        right = _right(images.module, pixels, labels)
        made = pixels.clone()
        made[right] = attack(pixels[right], labels[right])
        return right & _right(images.module, made, labels)

    return attacked


def _right(model: Callable[[Tensor], Tensor], pixels: Tensor, labels: Tensor) -> Tensor:
    """bool [N]."""
    with torch.no_grad():
        return model(pixels).argmax(dim=1) == labels
