"""PGD-10 of this project beside that of torchattacks, foolbox and ART.

The peers get the network as their documentation has it: in eval mode, not folded, in torch's
default layout, on the same device. All make ten steps of 2/255 in the linf ball of 8/255 from a
random start; all keep the last iterate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from harness import Comparison
from subjects import Subject, have, peak, precisions, subjects, synchronise
from torch import Tensor

from tasks.attacks.base import Victim
from tasks.attacks.pgd import PGD
from tasks.classifier.frozen import Frozen
from tasks.data.seeding import Rows
from tasks.specs import Precision

STEPS = 10
EPSILON, STEP = 8 / 255, 2 / 255
PASSES = 2
"""A step's passes of the network: forward, and backward to the pixels alone."""


def comparisons(device: str) -> Iterator[Comparison]:
    """The peak of matrix products, then PGD-10 on both networks."""
    yield peak(device)
    for subject in subjects(device):
        yield _pgd(subject)


def _pgd(subject: Subject) -> Comparison:
    kinds = precisions(subject.device)
    ours = {f"ours, {name}": _ours(subject, name) for name in kinds}
    ours |= {f"ours, compiled, {name}": _ours(subject, name, compiled=True) for name in kinds}
    peers = {
        "torchattacks": _torchattacks,
        "foolbox": _foolbox,
        "ART": _art,
    }
    modules = {"torchattacks": "torchattacks", "foolbox": "foolbox", "ART": "art"}
    found = {name: make(subject) for name, make in peers.items() if have(modules[name])}
    return Comparison(
        name=f"pgd10-{subject.name}",
        what=f"untargeted PGD-10, {subject.name}, {len(subject.pixels)} images at once",
        amount=len(subject.pixels),
        unit="images",
        contenders={**ours, **found},
        ours=tuple(ours),
        apart=tuple(found),
        flop=2.0 * subject.multiplications * STEPS * PASSES,
        told=[f"{name} is not installed" for name in peers if name not in found],
    )


def _ours(
    subject: Subject, precision: Precision, *, compiled: bool = False
) -> Callable[[], Tensor]:
    frozen = Frozen(
        subject.module,
        classes=subject.classes,
        precision=precision,
        device=subject.device,
        compiled=compiled,
    )
    attack = PGD(epsilon=8.0, step_size=2.0, steps=STEPS)
    ids = torch.arange(len(subject.pixels), device=subject.device)

    def run() -> Tensor:
        rows = Rows(0, images=ids, draws=torch.zeros_like(ids))
        victim = Victim(lambda pixels, _: frozen.logits(pixels), frozen.classes)
        return synchronise(attack.perturb(victim, subject.pixels, subject.labels, rows))

    return run


def _torchattacks(subject: Subject) -> Callable[[], Tensor]:
    import torchattacks

    attack = torchattacks.PGD(subject.module, eps=EPSILON, alpha=STEP, steps=STEPS)
    return lambda: synchronise(attack(subject.pixels, subject.labels))


def _foolbox(subject: Subject) -> Callable[[], Tensor]:
    import foolbox

    model = foolbox.PyTorchModel(subject.module, bounds=(0, 1), device=subject.device)
    attack = foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS)

    def run() -> Tensor:
        _, clipped, _ = attack(model, subject.pixels, subject.labels, epsilons=EPSILON)
        return synchronise(clipped)

    return run


def _art(subject: Subject) -> Callable[[], object]:
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    classifier = PyTorchClassifier(
        subject.module,
        loss=torch.nn.CrossEntropyLoss(),
        input_shape=tuple(subject.pixels.shape[1:]),
        nb_classes=subject.classes,
        clip_values=(0.0, 1.0),
        device_type="gpu" if subject.device == "cuda" else "cpu",
    )
    attack = ProjectedGradientDescent(
        classifier,
        eps=EPSILON,
        eps_step=STEP,
        max_iter=STEPS,
        num_random_init=1,
        batch_size=len(subject.pixels),
        verbose=False,
    )
    pixels, labels = subject.pixels.cpu().numpy(), subject.labels.cpu().numpy()
    return lambda: attack.generate(pixels, labels)
