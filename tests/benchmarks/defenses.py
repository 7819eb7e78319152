"""The counter-perturbation beside separate one-step attacks, batched draws beside a loop.

The network is the same for all, and each contender gets it in its own way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from harness import Comparison
from loops import guo_loop, mi_ol_loop
from subjects import CLASSES, POOL, SIDE, Subject, have, precisions, subject, synchronise
from torch import Tensor
from torch.nn import functional

from tasks.classifier.frozen import Frozen
from tasks.data.seeding import Rows
from tasks.defenses.base import Context, Defense
from tasks.defenses.counter import Counter
from tasks.defenses.guo import Guo
from tasks.defenses.mi_ol import MixupInference
from tasks.evaluation.defend import predict
from tasks.networks.resnet20 import ResNet20
from tasks.specs import Precision, Problem

PROBLEM = Problem(epsilon=8.0, classes=CLASSES, side=SIDE, pool=POOL)
COUNTERED = {"cpu": 250, "cuda": 2000}
DEFENDED = {"cpu": 40, "cuda": 200}
BATCH = 500


def comparisons(device: str) -> Iterator[Comparison]:
    """The counter-perturbation, then the two defenses with many draws."""
    yield _counter(subject(ResNet20(), device, COUNTERED[device]))
    images = subject(ResNet20(), device, DEFENDED[device])
    yield _drawn(images, Guo().resolved(PROBLEM), guo_loop)
    yield _drawn(images, MixupInference().resolved(PROBLEM), mi_ol_loop)


def _counter(images: Subject) -> Comparison:
    counter = Counter().resolved(PROBLEM)
    labels = counter.label_count or CLASSES - 1
    ours = _ours(lambda context: _transform(images, counter, context), images)
    contenders = {**ours, "one-step attacks, our classifier": _one_steps(images, labels)}
    if have("torchattacks"):
        contenders["one-step attacks, torchattacks"] = _fgsms(images, labels)
    return Comparison(
        name="counter",
        what=f"counter-perturbation for {labels} labels, resnet20, {len(images.pixels)} images",
        amount=len(images.pixels),
        unit="images",
        contenders=contenders,
        ours=tuple(ours),
        apart=("one-step attacks, torchattacks",),
    )


def _ours(
    call: Callable[[Context], Callable[[], Tensor]], images: Subject
) -> dict[str, Callable[[], Tensor]]:
    """A contender for each way in which the classifier can run."""
    kinds = precisions(images.device)
    ways = [(precision, compiled) for compiled in (False, True) for precision in kinds]
    return {
        f"ours, {'compiled, ' * compiled}{precision}": call(context_of(images, precision, compiled))
        for precision, compiled in ways
    }


def _transform(images: Subject, counter: Counter, context: Context) -> Callable[[], Tensor]:
    def run() -> Tensor:
        return synchronise(counter.transform(images.pixels, rows_of(images), context))

    return run


def _one_steps(images: Subject, count: int) -> Callable[[], Tensor]:
    """The same sum of signs, a forward and a backward pass for each label."""
    frozen = context_of(images, "float32").classifier

    def run() -> Tensor:
        total = torch.zeros_like(images.pixels)
        predicted = frozen.logits(images.pixels).argmax(dim=1)
        for step in range(1, count + 1):
            labels = (predicted + step) % CLASSES

            def objective(logits: Tensor, labels: Tensor = labels) -> Tensor:
                return functional.cross_entropy(logits, labels, reduction="none")

            total -= frozen.gradient(images.pixels, objective).sign()
        return synchronise(images.pixels + (total * 4 / 255).clamp(-8 / 255, 8 / 255))

    return run


def _fgsms(images: Subject, count: int) -> Callable[[], Tensor]:
    import torchattacks

    attack = torchattacks.FGSM(images.module, eps=4 / 255)
    attack.set_mode_targeted_by_label(quiet=True)

    def run() -> Tensor:
        with torch.no_grad():
            predicted = images.module(images.pixels).argmax(dim=1)
        total = torch.zeros_like(images.pixels)
        for step in range(1, count + 1):
            total += attack(images.pixels, (predicted + step) % CLASSES) - images.pixels
        return synchronise(images.pixels + total.clamp(-8 / 255, 8 / 255))

    return run


def _drawn(
    images: Subject, defense: Defense, loop: Callable[[Subject, Defense], Callable[[], Tensor]]
) -> Comparison:
    ours = _ours(lambda context: _batched(images, defense, context), images)
    draws = getattr(defense, "draws", 1)
    return Comparison(
        name=defense.kind,
        what=f"{defense.kind}, {draws} draws, resnet20, {len(images.pixels)} images",
        amount=len(images.pixels),
        unit="images",
        contenders={**ours, "a loop over images and draws": loop(images, defense)},
        ours=tuple(ours),
        apart=("a loop over images and draws",),
    )


def _batched(images: Subject, defense: Defense, context: Context) -> Callable[[], Tensor]:
    def run() -> Tensor:
        return synchronise(predict(defense, context, images.pixels, rows_of(images), BATCH))

    return run


def context_of(images: Subject, precision: Precision, compiled: bool = False) -> Context:
    """The subject's network frozen, and its pool."""
    frozen = Frozen(
        images.module,
        classes=CLASSES,
        precision=precision,
        device=images.device,
        compiled=compiled,
    )
    return Context(classifier=frozen, pool=images.pool.to(images.device))


def rows_of(images: Subject) -> Rows:
    """The subject's images by their places."""
    ids = torch.arange(len(images.pixels), device=images.device)
    return Rows(0, images=ids, draws=torch.zeros_like(ids))
