"""The counter-perturbation beside separate one-step attacks, batched draws beside a loop.

The loop is the way of publications' own code: one image and one draw at a time, transformed by
PIL, asked alone. The network is the same for all, and each contender gets it in its own way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from harness import Comparison
from PIL import Image
from subjects import CLASSES, Subject, have, subject, synchronise
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2 import functional as pictures

from tasks.arrays import Images
from tasks.defend import predict
from tasks.defenses.base import Context, Defense
from tasks.defenses.counter import Counter
from tasks.defenses.guo import Guo
from tasks.defenses.mi_ol import MixupInference
from tasks.frozen import Frozen
from tasks.networks.resnet20 import ResNet20
from tasks.seeding import Rows
from tasks.specs import Precision, Problem

PROBLEM = Problem(epsilon=8.0, classes=CLASSES, side=32, pool=1000)
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
COUNTERED = {"cpu": 250, "cuda": 2000}
DEFENDED = {"cpu": 40, "cuda": 200}
BATCH = 500


def comparisons(device: str) -> Iterator[Comparison]:
    """The counter-perturbation, then the two defenses with many draws."""
    yield _counter(subject(ResNet20(), device, COUNTERED[device]))
    images = subject(ResNet20(), device, DEFENDED[device])
    yield _drawn(images, Guo().resolved(PROBLEM), _guo_loop)
    yield _drawn(images, MixupInference().resolved(PROBLEM), _mi_ol_loop)


def _counter(images: Subject) -> Comparison:
    counter = Counter().resolved(PROBLEM)
    labels = counter.label_count or CLASSES - 1
    ours = {
        f"ours, {precision}": _transform(images, counter, precision) for precision in PRECISIONS
    }
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
    )


def _transform(images: Subject, counter: Counter, precision: Precision) -> Callable[[], Tensor]:
    context = _context(images, precision)

    def run() -> Tensor:
        return synchronise(counter.transform(images.pixels, _rows(images), context))

    return run


def _one_steps(images: Subject, count: int) -> Callable[[], Tensor]:
    """The same sum of signs, a forward and a backward pass for each label."""
    frozen = _context(images, "float32").classifier

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
    ours = {f"ours, {precision}": _batched(images, defense, precision) for precision in PRECISIONS}
    draws = getattr(defense, "draws", 1)
    return Comparison(
        name=defense.kind,
        what=f"{defense.kind}, {draws} draws, resnet20, {len(images.pixels)} images",
        amount=len(images.pixels),
        unit="images",
        contenders={**ours, "a loop over images and draws": loop(images, defense)},
        ours=tuple(ours),
    )


def _batched(images: Subject, defense: Defense, precision: Precision) -> Callable[[], Tensor]:
    context = _context(images, precision)

    def run() -> Tensor:
        return synchronise(predict(defense, context, images.pixels, _rows(images), BATCH))

    return run


def _guo_loop(images: Subject, defense: Defense) -> Callable[[], Tensor]:
    assert isinstance(defense, Guo)
    smallest, largest = (round(32 * share) for share in (defense.smallest, defense.largest))

    def run() -> Tensor:
        answers = []
        for pixels in images.pixels.cpu():
            picture = pictures.to_pil_image(pixels)
            total = torch.zeros(CLASSES)
            for _ in range(defense.draws):
                size = int(torch.randint(smallest, largest + 1, ()))
                left, top = (int(torch.randint(0, 33 - size, ())) for _ in range(2))
                window = picture.crop((left, top, left + size, top + size))
                window = window.resize((32, 32), Image.Resampling.BILINEAR)
                total += _alone(images, pictures.to_dtype(pictures.to_image(window), scale=True))
            answers.append(total / defense.draws)
        return torch.stack(answers)

    return run


def _mi_ol_loop(images: Subject, defense: Defense) -> Callable[[], Tensor]:
    assert isinstance(defense, MixupInference)
    weight = defense.input_weight
    pool = _pool()

    def run() -> Tensor:
        answers = []
        for pixels in images.pixels.cpu():
            predicted = int(_alone(images, pixels).argmax())
            others = [
                place for place, label in enumerate(pool.labels.tolist()) if label != predicted
            ]
            total = torch.zeros(CLASSES)
            for _ in range(defense.draws):
                place = others[int(torch.randint(0, len(others), ()))]
                partner = pool.pixels[place].float() / 255
                total += _alone(images, weight * pixels + (1 - weight) * partner)
            answers.append(total / defense.draws)
        return torch.stack(answers)

    return run


def _alone(images: Subject, pixels: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = images.module(pixels[None].to(images.device))
    return logits.softmax(dim=1)[0].cpu()


def _context(images: Subject, precision: Precision) -> Context:
    frozen = Frozen(images.module, classes=CLASSES, precision=precision, device=images.device)
    return Context(classifier=frozen, pool=_pool().to(images.device))


def _pool() -> Images:
    drawn = torch.Generator().manual_seed(1)
    count = PROBLEM.pool
    pixels = torch.randint(256, (count, 3, 32, 32), generator=drawn, dtype=torch.uint8)
    labels = torch.arange(count) % CLASSES
    return Images(pixels, labels, torch.arange(count), CLASSES)


def _rows(images: Subject) -> Rows:
    ids = torch.arange(len(images.pixels), device=images.device)
    return Rows(0, images=ids, draws=torch.zeros_like(ids))
