"""`pipeline new`: writes a template of a defense, an attack or a model, with YAML file and test."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pipeline.catalogue.catalogue import Catalogue, Section, config_folders
from pipeline.catalogue.code.own import packaged
from pipeline.problems import BadInput, shown, writing_to
from tasks import registry
from tasks.registry import Family

DEFENSE = '''"""The defense {name}. Describe in one sentence what it does."""

from tasks import straight
from tasks.defenses.base import Defense


class {cls}(Defense):
    """Example to replace: adds uniform noise of at most `limit_255ths` / 255 to every pixel.

    Each field is a parameter that the YAML file next to this file can set. A prediction averages
    over `draws` randomly transformed copies of an image.
    """

    draws: int = 10
    limit_255ths: float = 8.0

    def transform(self, pixels, rows, context):
        """Transform float32 [N, C, H, W] in [0, 1]. All random numbers come from `rows`."""
        noise = 2 * rows.uniform("noise", pixels[0].numel()).view_as(pixels) - 1
        return straight.clip(pixels + self.limit_255ths / 255 * noise)
'''
VIEWS = '''"""The defense {name}. Describe in one sentence what it does."""

import torch

from tasks.defenses.base import Defense


class {cls}(Defense):
    """Example to replace: the image and `shifts` copies of it, shifted by 1, 2, ... pixels.

    Each field is a parameter that the YAML file next to this file can set. Every prediction
    evaluates all views, and so does every attack. In a chain, a defense with views comes last.
    """

    shifts: int = 3

    def views(self, classes):
        """Return the number of views that `transform` makes of each image."""
        return 1 + self.shifts

    def transform(self, pixels, rows, context):
        """Map [N, C, H, W] to [N * views, C, H, W]; the views of an image follow one another."""
        views = [pixels.roll(shift, dims=3) for shift in range(1 + self.shifts)]
        return torch.stack(views, dim=1).flatten(0, 1)

    def combine(self, logits):
        """Map logits [..., views, classes] to log-probabilities [..., classes] of the mean."""
        return logits.mean(dim=-2).log_softmax(dim=-1)
'''
VOTES = '''"""The defense {name}. Describe in one sentence what it does."""

import torch
from torch.nn.functional import one_hot

from tasks.defenses.base import Defense


class {cls}(Defense):
    """Example to replace: a majority vote over `draws` copies with Gaussian noise.

    Abstains if the winning class has less than `least_share` of the votes. Each field is a
    parameter that the YAML file next to this file can set.
    """

    draws: int = 20
    deviation_255ths: float = 16.0
    least_share: float = 0.5

    def leaves_range(self):
        """Return True, since the noise is not clipped. In a chain, such a defense comes last."""
        return True

    def transform(self, pixels, rows, context):
        """Transform float32 [N, C, H, W] in [0, 1]. All random numbers come from `rows`."""
        noise = rows.normal("noise", pixels[0].numel()).view_as(pixels)
        return pixels + self.deviation_255ths / 255 * noise

    def combine(self, logits):
        """Map logits [..., views, classes] to log-probabilities [..., classes] of one vote."""
        votes = one_hot(logits[..., 0, :].argmax(dim=-1), logits.shape[-1])
        return torch.where(votes == 1, 0.0, -87.0)  # must be finite

    def gradients(self):
        """Return the gradients that an attack tries.

        A vote has no gradient, so an attack uses that of `surrogate`, the mean probability of the
        draws. If `combine` has a gradient almost everywhere, as a median has, return both:
        ("straight-through", "surrogate").
        """
        return ("surrogate",)

    def abstains(self, probabilities, draws):
        """Map shares of votes [..., classes] to bool [...]: True where the defense abstains."""
        return probabilities.amax(dim=-1) < self.least_share
'''
OPTIMISER = '''"""The defense {name}. Describe in one sentence what it does."""

from tasks.defenses.transforms.descent import Descent
from tasks.defenses.transforms.optimised import Optimised


class {cls}(Optimised):
    """Example to replace: moves an image so that its features become more equal.

    Each field is a parameter that the YAML file next to this file can set. The base class tells an
    attack that the defense optimises, and in which ways a gradient can pass through it.
    """

    steps: int = 5
    step_255ths: float = 1.0
    limit_255ths: float = 4.0

    def descent(self):
        """Return the settings of the optimiser, in units of [0, 1].

        With `norm="linf"` a step follows the sign of the gradient, with `norm="l2"` the gradient
        scaled to length 1.
        """
        return Descent(self.steps, self.step_255ths / 255, self.limit_255ths / 255, norm="linf")

    def value(self, pixels, context):
        """Return the function that the steps minimise. It maps images to [N], row by row.

        It should evaluate the bare classifier once, with `context.logits` or with
        `context.features` (the input of the last linear layer). If it needs more passes, override
        `forwards_and_backwards`.
        """

        def value(moved):
            features = context.features(moved)
            return (features - features.mean(dim=1, keepdim=True)).square().sum(dim=1)

        return value
'''
ATTACK = '''"""The attack {name}. Describe in one sentence what it does."""

import torch
from torch.nn.functional import cross_entropy

from tasks.attacks.base import BoundedAttack


class {cls}(BoundedAttack):
    """Example to replace: gradient ascent on the cross-entropy in `steps` steps.

    Each field is a parameter that the YAML file next to this file can set. The base class has
    `epsilon` (in 1/255 of the pixel range), `norm` and `targeted`.
    """

    steps: int = 10

    def perturb(self, victim, pixels, labels, rows):
        """Return adversarial examples of `pixels`, float32 [N, C, H, W], inside `self.ball()`."""
        ball = self.ball()
        aims = self.targets(labels, rows, victim.classes) if self.targeted else labels
        sign = -1 if self.targeted else 1
        found = pixels
        for step in range(self.steps):
            leaf = found.detach().requires_grad_()
            loss = cross_entropy(victim.logits(leaf, step), aims, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, leaf)
            moved = found + sign * 2.5 * ball.radius / self.steps * ball.steepest(gradient)
            found = ball.project(moved, pixels)
        return found
'''
MODEL = '''"""The network {name}, which maps images [N, C, H, W] to logits [N, classes]."""

from torch import nn


def make(width, classes):
    """Example to replace: two convolutions and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(16 * width, classes),
    )
'''
MODEL_YAML = """dataset: digits
network:
  kind: factory
  factory: {name}.py:make
  arguments: {{width: 16, classes: 10}}
  mean: [0.5]
  std: [0.5]
recipe: demo-mixup
# To load weights instead of training with a recipe (only tensors are read, no code):
# checkpoint: {{file: {name}.safetensors}}
"""
TEST = '''"""Tests that {name} keeps the contract: `python {place}`, or with pytest."""

from pathlib import Path

from pipeline.catalogue.catalogue import Catalogue, config_folders
from tasks.contract import check_{check}


def test_{word}_keeps_the_contract_of_{article}_{check}():
    catalogue = Catalogue(config_folders())
    name = catalogue.add("{section}", str(Path(__file__).with_name("{name}.yaml")))
    check_{check}({load})


if __name__ == "__main__":
    test_{word}_keeps_the_contract_of_{article}_{check}()
    print("{name} keeps the contract")
'''
Form = Literal["draws", "views", "votes", "optimiser"]
FORMS: dict[Form, tuple[str, str]] = {
    "draws": (DEFENSE, "kind: {name}.py\ndraws: 10\n"),
    "views": (VIEWS, "kind: {name}.py\nshifts: 3\n"),
    "votes": (VOTES, "kind: {name}.py\ndraws: 20\n"),
    "optimiser": (OPTIMISER, "kind: {name}.py\nsteps: 5\n"),
}
"""Python file and YAML file of each form of defense."""
KINDS: dict[str, tuple[Section, str, str]] = {
    "defense": ("defenses", DEFENSE, "kind: {name}.py\ndraws: 10\n"),
    "attack": ("attacks", ATTACK, "kind: {name}.py\nsteps: 10\n"),
    "model": ("models", MODEL, MODEL_YAML),
}
"""Section, Python file and YAML file of each kind of template."""


def write_skeleton(kind: str, name: str, folder: Path, form: Form = "draws") -> list[Path]:
    """Write the three files into a folder of configs; returns their paths.

    Args:
        form: Form of a defense, see `FORMS`.

    Raises:
        BadInput: If the name is invalid or taken, or a file exists.
        Unwritable: If the folder cannot be written.
    """
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,63}", name):
        raise BadInput(
            f"new {kind} {name}: a name is at most 64 lower-case letters, digits and hyphens"
        )
    section, code, yaml = KINDS[kind]
    if kind == "defense":
        code, yaml = FORMS[form]
    elif form != "draws":
        raise BadInput(f"new {kind} {name}: --form is only for defenses; leave it out")
    _check_unknown(kind, name, section)
    word = name.replace("-", "_")
    check = "network" if kind == "model" else kind
    test = folder / section / f"test_{word}.py"
    words = {
        "name": name,
        "word": word,
        "cls": "".join(part.capitalize() for part in name.split("-")),
        "section": section,
        "check": check,
        "article": "an" if check == "attack" else "a",
        "place": shown(test),
        "load": "catalogue.model(name)[1]" if kind == "model" else f"catalogue.{kind}(name)",
    }
    texts = {
        folder / section / f"{name}.py": code,
        folder / section / f"{name}.yaml": yaml,
        test: TEST,
    }
    for path in texts:
        if path.exists():
            raise BadInput(f"{shown(path)} already exists")
    with writing_to(str(folder), None):
        for path, text in texts.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.format(**words), encoding="utf-8")
    return list(texts)


def _check_unknown(kind: str, name: str, section: Section) -> None:
    """Raise BadInput if the name exists already, since the new files would shadow it."""
    catalogue = Catalogue(config_folders())
    place = catalogue.names(section).get(name)
    if place is not None:
        raise BadInput(f"new {kind} {name}: {shown(place)} already has this name; choose another")
    family: Family = "defenses" if kind == "defense" else "attacks"
    if kind == "model":
        family = "networks"
    if name in registry.kinds(family) or name in packaged(family):
        raise BadInput(f"new {kind} {name}: a kind already has this name; choose another")
