"""Attacks of other libraries, by class name and parameters: ART, foolbox, torchattacks.

A library draws from the process's own generators, for a whole batch at once. So that an image
gets the same example whatever its batch, images are attacked one at a time unless the spec says
otherwise, under a seed that belongs to the image.
"""

from __future__ import annotations

import inspect
import random
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, JsonValue

from tasks.attacks.base import BoundedAttack, Victim
from tasks.registry import LibraryProblem, imported
from tasks.specs import Count

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.attacks.libraries.asked import Asked
    from tasks.data.seeding import Rows


class LibraryAttack(BoundedAttack):
    """A library's attack on the bare model, its result projected into the ball.

    attack: the name of its class; parameters: of the class, in the library's own units (the
    pixel range is 1). Epsilon is passed on, and a step size that is not given keeps the
    proportion to it that the library's own defaults have. images_at_once: how many images share
    the library's random numbers; above 1 an example depends on what else is in its batch.
    """

    attack: Annotated[str, Field(pattern=r"^\w+$")]
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    images_at_once: Count = 1

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    def perturb(self, victim: Victim, pixels: Tensor, labels: Tensor, rows: Rows) -> Tensor:
        """The library's examples, in the ball."""
        import torch

        from tasks.attacks.libraries.asked import Asked

        ball = self.ball()
        if not ball.radius:
            return pixels.clone()
        aims = self.targets(labels, rows, victim.classes) if self.targeted else labels
        module = Asked(victim, pixels.device).eval()
        seeds = rows.integers("library", 0, 2**31 - 1)[:, 0]
        parts = []
        for first in range(0, len(pixels), self.images_at_once):
            group = slice(first, first + self.images_at_once)
            with seeded(seed := int(seeds[first])):
                found = self.examples(module, pixels[group].clone(), aims[group], seed)
            parts.append(ball.project(found.detach().to(pixels), pixels[group]))
        return torch.cat(parts)

    def examples(self, module: Asked, pixels: Tensor, aims: Tensor, seed: int) -> Tensor:
        """What the library makes of some images; aims: their labels, or the targets."""
        raise NotImplementedError(f"{type(self).__name__} does not define examples")

    def made(
        self, module: str, *leading: object, fill: Mapping[str, object], keep: str = ""
    ) -> Any:
        """The library's attack, made from the parameters and those of `fill` that it takes.

        module: where the library has its attacks; fill: by name, what is not given; keep: the
        name of a step size. LibraryProblem where the attack cannot be made.
        """
        found = getattr(imported(self.library, module), self.attack, None)
        if not inspect.isclass(found):
            raise LibraryProblem(f"{module} has no attack {self.attack}")
        known = inspect.signature(found).parameters
        filled = {name: value for name, value in fill.items() if name in known}
        if "eps" in known:
            filled["eps"] = self.ball().radius
            usual = _default(known, "eps"), _default(known, keep)
            if usual[0] and usual[1]:
                filled[keep] = self.ball().radius * usual[1] / usual[0]
        try:
            return found(*leading, **{**filled, **self.parameters})
        except (TypeError, ValueError) as error:
            said = " ".join(str(error).split())
            raise LibraryProblem(f"{self.attack} of {self.library}: {said}") from error


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """The process's own generators under a seed, given back as they were; warnings unheard."""
    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state()  # noqa: NPY002  what libraries use
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def _default(known: Mapping[str, inspect.Parameter], name: str) -> float | None:
    value = known[name].default if name in known else None
    return float(value) if isinstance(value, int | float) else None
