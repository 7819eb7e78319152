"""An attack on a randomised defense beside torchattacks' EOT-PGD and foolbox's expectation wrapper.

All make the same steps in the linf ball of 8/255 from a random start, with the same number of
draws of random resizing and padding (Xie et al. 2018) at each. The peers get the defended
network as a module that draws anew each time it is called, and call it once a draw; where the
folder of `PIPELINE_TEST_SHARED` is there the images are real, and how many each contender leaves
right is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from harness import Comparison
from subjects import Subject, have, peak, precisions, real, subject, synchronise
from torch import Tensor, nn

from tasks.attacks.apgd import APGD
from tasks.attacks.pgd import PGD
from tasks.classifier.frozen import Frozen
from tasks.data.seeding import Rows
from tasks.defenses.base import Context, Defense
from tasks.defenses.xie import Xie
from tasks.evaluation.defend import predict
from tasks.evaluation.victim import defended
from tasks.networks.resnet20 import ResNet20
from tasks.specs import Precision, Problem

STEPS, DRAWS = 10, 10
IMAGES = {"cpu": 20, "cuda": 500}
EPSILON, STEP = 8 / 255, 2 / 255
PROBLEM = Problem(epsilon=8.0, classes=10, side=32, pool=1000)
PASSES = 2
"""A draw's passes of the network at a step: forward, and backward to the pixels alone."""

Run = Callable[[], Tensor]


def comparisons(device: str) -> Iterator[Comparison]:
    """The peak of matrix products, then the attacks."""
    yield peak(device)
    try:
        images, known = real(IMAGES[device], device), True
    except FileNotFoundError:
        images, known = subject(ResNet20(), device, IMAGES[device]), False
    defense = Xie().resolved(PROBLEM)
    told: list[str] = []
    attacks = (
        PGD(epsilon=8.0, step_size=2.0, steps=STEPS),
        APGD(epsilon=8.0, steps=STEPS, loss="margin"),
    )
    ours = {
        f"ours, {attack.kind}, {precision}": _ours(images, defense, attack, precision)
        for attack in attacks
        for precision in precisions(device)
    }
    peers = {"torchattacks": _torchattacks, "foolbox": _foolbox}
    found = {name: make(images, defense) for name, make in peers.items() if have(name)}
    told += [f"{name} is not installed" for name in peers if name not in found]
    runs: dict[str, Run] = {**ours, **found}
    if known:
        judge = _judge(images, defense)
        runs = {name: _telling(name, run, judge, told) for name, run in runs.items()}
    yield Comparison(
        name="expectation-xie",
        what=(f"{STEPS} steps of {DRAWS} draws on xie, {images.name}, {len(images.pixels)} images"),
        amount=len(images.pixels),
        unit="images",
        contenders=runs,
        ours=tuple(ours),
        flop=2.0 * images.multiplications * STEPS * DRAWS * PASSES,
        told=told,
    )


def _rows(images: Subject) -> Rows:
    ids = torch.arange(len(images.pixels), device=images.device)
    return Rows(0, images=ids, draws=torch.zeros_like(ids))


def _ours(images: Subject, defense: Defense, attack: PGD | APGD, precision: Precision) -> Run:
    frozen = Frozen(images.module, classes=10, precision=precision, device=images.device)
    context = Context(classifier=frozen)

    def run() -> Tensor:
        rows = _rows(images).within("attack")
        victim = defended(defense, context, rows, draws=DRAWS)
        return synchronise(attack.perturb(victim, images.pixels, images.labels, rows))

    return run


class _Defended(nn.Module):
    """The defended network as its user would write it: it draws anew at each call."""

    def __init__(self, images: Subject, defense: Defense) -> None:
        super().__init__()
        self.network = images.module
        self.defense = defense
        self.context = Context(Frozen(images.module, classes=10, device=images.device))
        self.calls = 0

    def forward(self, pixels: Tensor) -> Tensor:
        self.calls += 1
        ids = torch.arange(len(pixels), device=pixels.device)
        rows = Rows(0, images=ids, draws=torch.zeros_like(ids)).within("peer").at(self.calls)
        answers: Tensor = self.network(self.defense.transform(pixels, rows, self.context))
        return answers


def _torchattacks(images: Subject, defense: Defense) -> Run:
    import torchattacks

    module = _Defended(images, defense).eval()
    attack = torchattacks.EOTPGD(module, eps=EPSILON, alpha=STEP, steps=STEPS, eot_iter=DRAWS)
    return lambda: synchronise(attack(images.pixels, images.labels))


def _foolbox(images: Subject, defense: Defense) -> Run:
    import foolbox

    module = _Defended(images, defense).eval()
    single = foolbox.PyTorchModel(module, bounds=(0, 1), device=images.device)
    model = foolbox.models.ExpectationOverTransformationWrapper(single, n_steps=DRAWS)
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS)

    def run() -> Tensor:
        # `run` gives the examples; a call would judge them by draws of its own as well
        criterion = foolbox.criteria.Misclassification(images.labels)
        return synchronise(attack.run(model, images.pixels, criterion, epsilon=EPSILON))

    return run


def _judge(images: Subject, defense: Defense) -> Callable[[Tensor], float]:
    """The share of examples, in percent, that the defended network answers rightly, once each."""
    context = Context(classifier=Frozen(images.module, classes=10, device=images.device))

    def judged(pixels: Tensor) -> float:
        rows = _rows(images).within("defend")
        answers = predict(defense, context, pixels, rows, batch_size=500)
        return 100 * (answers.argmax(dim=1) == images.labels).float().mean().item()

    return judged


def _telling(name: str, run: Run, judge: Callable[[Tensor], float], told: list[str]) -> Run:
    """The run, which tells once how many images its examples leave right."""
    heard: list[str] = []

    def once() -> Tensor:
        found = run()
        if not heard:
            heard.append(name)
            told.append(f"{name} leaves {judge(found.detach()):.1f} % of the images right")
        return found

    return once
