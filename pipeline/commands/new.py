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

DEFENSE = '''"""What {name} does, in a sentence."""

from tasks import straight
from tasks.defenses.base import Defense


class {cls}(Defense):
    """Noise of up to `limit_255ths` on every pixel, in 1/255 of the pixel range: a beginning.

    Fields are parameters, which the YAML file beside this one may set. `draws` is how many
    transformed copies of an image a prediction averages.
    """

    draws: int = 10
    limit_255ths: float = 8.0

    def transform(self, pixels, rows, context):
        """Float32 [N, C, H, W] in [0, 1] to the same; random numbers come from `rows` alone."""
        noise = 2 * rows.uniform("noise", pixels[0].numel()).view_as(pixels) - 1
        return straight.clip(pixels + self.limit_255ths / 255 * noise)
'''
VIEWS = '''"""What {name} does, in a sentence."""

import torch

from tasks.defenses.base import Defense


class {cls}(Defense):
    """The image and `shifts` copies of it, each moved by one pixel more: a beginning.

    Fields are parameters, which the YAML file beside this one may set. A prediction asks all
    views, always; an attacker does too. In a chain such a defense comes last.
    """

    shifts: int = 3

    def views(self, classes):
        """How many copies of an image `transform` makes."""
        return 1 + self.shifts

    def transform(self, pixels, rows, context):
        """Float32 [N, C, H, W] in [0, 1] to [N * views, C, H, W], an image's views side by side."""
        views = [pixels.roll(shift, dims=3) for shift in range(1 + self.shifts)]
        return torch.stack(views, dim=1).flatten(0, 1)

    def combine(self, logits):
        """Logits [..., views, classes] to log-probabilities [..., classes]: here of their mean."""
        return logits.mean(dim=-2).log_softmax(dim=-1)
'''
VOTES = '''"""What {name} does, in a sentence."""

import torch
from torch.nn.functional import one_hot

from tasks.defenses.base import Defense


class {cls}(Defense):
    """The votes of `draws` draws of Gaussian noise, or no answer: a beginning.

    Fields are parameters, which the YAML file beside this one may set.
    """

    draws: int = 20
    deviation_255ths: float = 16.0
    least_share: float = 0.5

    def leaves_range(self):
        """The noise is not clipped, so that pixels leave [0, 1]. In a chain this comes last."""
        return True

    def transform(self, pixels, rows, context):
        """Float32 [N, C, H, W] in [0, 1] to the same shape; chance comes from `rows` alone."""
        noise = rows.normal("noise", pixels[0].numel()).view_as(pixels)
        return pixels + self.deviation_255ths / 255 * noise

    def combine(self, logits):
        """Logits [..., views, classes] to log-probabilities [..., classes]: one view, one vote."""
        votes = one_hot(logits[..., 0, :].argmax(dim=-1), logits.shape[-1])
        return torch.where(votes == 1, 0.0, -87.0)  # finite, or it is refused

    def gradients(self):
        """A vote has no gradient: an attacker climbs `surrogate`, the probabilities of the draws.

        Of a `combine` that has one almost everywhere, such as a median, both are climbed:
        ("straight-through", "surrogate").
        """
        return ("surrogate",)

    def abstains(self, probabilities, draws):
        """Bool [...]: where there is no answer, of the shares of votes [..., classes]."""
        return probabilities.amax(dim=-1) < self.least_share
'''
OPTIMISER = '''"""What {name} does, in a sentence."""

from tasks.defenses.transforms.descent import Descent
from tasks.defenses.transforms.optimised import Optimised


class {cls}(Optimised):
    """Steps that bring the image's features nearer to their mean over classes: a beginning.

    Fields are parameters, which the YAML file beside this one may set. An attacker reads from the
    base class that there is an optimiser inside, and by which rules a gradient may pass it.
    """

    steps: int = 5
    step_255ths: float = 1.0
    limit_255ths: float = 4.0

    def descent(self):
        """In [0, 1] units: linf takes signs of gradients, l2 gradients of length 1."""
        return Descent(self.steps, self.step_255ths / 255, self.limit_255ths / 255, norm="linf")

    def value(self, pixels, context):
        """What the steps lower: a function of moved images to [N], of each row its own.

        It asks the bare classifier once: `context.logits`, or `context.features`, what its last
        linear layer takes. More questions are told in `forwards_and_backwards`.
        """

        def value(moved):
            features = context.features(moved)
            return (features - features.mean(dim=1, keepdim=True)).square().sum(dim=1)

        return value
'''
ATTACK = '''"""What {name} does, in a sentence."""

import torch
from torch.nn.functional import cross_entropy

from tasks.attacks.base import BoundedAttack


class {cls}(BoundedAttack):
    """`steps` steps up the cross-entropy: a beginning.

    Fields are parameters, which the YAML file beside this one may set. `epsilon`, in 1/255 of
    the pixel range, `norm` and `targeted` come with the base class.
    """

    steps: int = 10

    def perturb(self, victim, pixels, labels, rows):
        """Float32 [N, C, H, W] in [0, 1] to the same, each image within `self.ball()`."""
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
MODEL = '''"""The network {name}: [N, C, H, W] to one logit a class, [N, classes]."""

from torch import nn


def make(width, classes):
    """Two convolutions and a linear layer: a beginning."""
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
# Weights of your own instead of a recipe, read as weights only:
# checkpoint: {{file: {name}.safetensors}}
"""
TEST = '''"""Whether {name} keeps the contract: `pytest {place}`."""

from pathlib import Path

from pipeline.catalogue.catalogue import Catalogue, config_folders
from tasks.contract import check_{check}


def test_{word}_keeps_the_contract_of_{article}_{check}():
    catalogue = Catalogue(config_folders())
    name = catalogue.add("{section}", str(Path(__file__).with_name("{name}.yaml")))
    check_{check}({load})
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
            f"new {kind} {name}: a name is lower-case letters, digits and hyphens, at most 64"
        )
    section, code, yaml = KINDS[kind]
    if kind == "defense":
        code, yaml = FORMS[form]
    elif form != "draws":
        raise BadInput(f"new {kind} {name}: --form is of a defense; leave it out")
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
            raise BadInput(f"{shown(path)} is there already")
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
        raise BadInput(f"new {kind} {name}: {shown(place)} has this name already; choose another")
    family: Family = "defenses" if kind == "defense" else "attacks"
    if kind == "model":
        family = "networks"
    if name in registry.kinds(family) or name in packaged(family):
        raise BadInput(f"new {kind} {name}: a kind has this name already; choose another")
