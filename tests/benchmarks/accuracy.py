"""Whether what is fast is right: accuracies beside those of the slow way, on real images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from defenses import BATCH, PROBLEM, context_of, rows_of
from harness import Comparison
from loops import guo_loop, mi_ol_loop
from subjects import Subject, precisions, real
from torch import Tensor

from tasks.attacks.base import Victim
from tasks.attacks.pgd import PGD
from tasks.defenses.base import Defense
from tasks.defenses.chain import Chain
from tasks.defenses.counter import Counter
from tasks.defenses.guo import Guo
from tasks.defenses.mi_ol import MixupInference
from tasks.defenses.none import NoDefense
from tasks.evaluation.defend import predict
from tasks.evaluation.statistics import wilson_interval
from tasks.specs import Precision

IMAGES, LOOPED = 1000, 500
SMALL, LARGE = 0.5, 8.0
"""Radii in 1/255: at the large one the network keeps nothing that is not defended."""


def comparisons(device: str) -> Iterator[Comparison]:
    """bfloat16 beside float32, then draws in batches beside a loop."""
    what = "accuracies on real images"
    try:
        images = real(IMAGES, device)
    except FileNotFoundError as error:
        told = [f"left out: {error.filename} is not here"]
        yield Comparison("accuracy", what, 0, "images", {}, (), told=told)
        return
    told = [*_narrow(images), *_loops(images.first(LOOPED))]
    yield Comparison("accuracy", f"{what}, {images.name}", IMAGES, "images", {}, (), told=told)


def _narrow(images: Subject) -> Iterator[str]:
    """A bare network is attacked and asked in one precision; a defense gets float32's examples."""
    kinds = precisions(images.device)
    bare = {
        kind: _defended(images, NoDefense(), _attacked(images, SMALL, kind), kind) for kind in kinds
    }
    yield f"untargeted PGD-10 at {SMALL}/255, {_told(images, bare)}"
    examples = _attacked(images, LARGE, "float32")
    chains: dict[str, Defense] = {"guo": Guo(), "counter+guo": Chain(parts=[Counter(), Guo()])}
    for name, defense in chains.items():
        found = {kind: _defended(images, defense, examples, kind) for kind in kinds}
        yield f"{name} under untargeted PGD-10 at {LARGE:g}/255, {_told(images, found)}"


def _loops(images: Subject) -> Iterator[str]:
    loops = {"guo": (Guo(), guo_loop), "mi-ol": (MixupInference(), mi_ol_loop)}
    for name, (defense, loop) in loops.items():
        found = {
            "in batches": _defended(images, defense, images.pixels, "float32"),
            "in a loop": loop(images, defense.resolved(PROBLEM))(),
        }
        yield f"{name} without an attack, {_told(images, found)}"


def _attacked(images: Subject, epsilon: float, precision: Precision) -> Tensor:
    frozen = context_of(images, precision).classifier
    victim = Victim(lambda pixels, _: frozen.logits(pixels), frozen.classes)
    attack = PGD(epsilon=epsilon, step_size=epsilon / 4, steps=10)
    return attack.perturb(victim, images.pixels, images.labels, rows_of(images))


def _defended(images: Subject, defense: Defense, pixels: Tensor, precision: Precision) -> Tensor:
    context = context_of(images, precision)
    return predict(defense.resolved(PROBLEM), context, pixels, rows_of(images), BATCH)


def _told(images: Subject, probabilities: Mapping[str, Tensor]) -> str:
    """Each accuracy in %, with its 95 % interval."""
    count = len(images.labels)
    lines = []
    for name, each in probabilities.items():
        right = int((each.argmax(dim=1).cpu() == images.labels.cpu()).sum())
        low, high = wilson_interval(right, count)
        lines.append(f"{name} {100 * right / count:.1f} [{100 * low:.0f}, {100 * high:.0f}]")
    return f"{count} images: {', '.join(lines)}"
