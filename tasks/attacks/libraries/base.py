"""Attacks of other libraries, by class name and parameters: ART, foolbox, torchattacks.

A library draws from the process's own generators, for a whole batch at once. So that an image
gets the same example whatever its batch, images are attacked one at a time unless the spec says
otherwise, under a seed that belongs to the image.
"""

from __future__ import annotations

import inspect
import io
import random
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, JsonValue, model_validator

from tasks.attacks.base import BoundedAttack, Victim
from tasks.registry import LibraryProblem, imported
from tasks.specs import Count

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.attacks.libraries.victim_module import VictimModule
    from tasks.data.seeding import Rows


Measure = Literal["l0", "l1", "l2", "linf"]
"""What an attack of a library keeps small."""

STEP_SIZES = ("alpha", "eps_step", "abs_stepsize")
"""What the libraries call a step size; all of them in the unit in which the pixel range is 1."""

_IN_A_NAME = re.compile(r"L(0|1|2|[Ii]nf(?:inity)?)(?![a-z0-9])")


class LibraryAttack(BoundedAttack):
    """A library's attack on the bare model, its result projected into the ball.

    attack: the name of its class, whose norm must be `norm`; parameters: of the class, in the
    library's own units (the pixel range is 1), without epsilon, norm and target, which are keys
    of the attack itself. Epsilon is passed on, and a step size that is not given keeps the
    proportion to it that the library's own defaults have. images_at_once: how many images share
    the library's random numbers; above 1 an example depends on what else is in its batch.
    """

    measures: ClassVar[Mapping[str, Measure]] = {}
    """What the library's classes keep small whose name does not say so, as `L2PGD` does; the
    classes that take the norm as a parameter are left out."""

    attack: Annotated[str, Field(pattern=r"^\w+$")]
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    images_at_once: Count = 1

    @model_validator(mode="after")
    def _of_the_cell(self) -> Self:
        """The ball is the cell's: of its norm, of its epsilon, in its unit."""
        kept = self.measure()
        if kept is not None and kept != self.norm:
            if kept in {"l0", "l1"}:
                raise ValueError(
                    f"attack: {self.attack} of {self.library} keeps the {kept} norm small; only "
                    "linf and l2 balls are known here"
                )
            own = " with an epsilon of its own, such as 128" if kept == "l2" else ""
            raise ValueError(
                f"norm: {self.attack} of {self.library} is an attack in {kept}, not {self.norm}; "
                f"write norm: {kept}{own}"
            )
        for name in ("eps", "norm", "targeted"):
            if name in self.parameters:
                raise ValueError(
                    f"parameters: {name} is the attack's own; write "
                    f"{_beside(name, self.parameters[name])} beside parameters instead"
                )
        for name in STEP_SIZES:
            value = self.parameters.get(name)
            if isinstance(value, int | float) and value > 1:
                raise ValueError(
                    f"parameters: {name} {value:g} is more than the pixel range, which is 1 to "
                    f"{self.library}; {value / 255:.4g} ({value:g}/255) was probably meant"
                )
        return self

    def measure(self) -> Measure | None:
        """The norm that the library's class keeps small; None where it takes it, or is unknown."""
        named = _IN_A_NAME.search(self.attack)
        if named is None:
            return self.measures.get(self.attack)
        found: Mapping[str, Measure] = {"0": "l0", "1": "l1", "2": "l2"}
        return found.get(named[1], "linf")

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    def perturb(self, victim: Victim, pixels: Tensor, labels: Tensor, rows: Rows) -> Tensor:
        """The library's examples, in the ball."""
        import torch

        from tasks.attacks.libraries.victim_module import VictimModule

        ball = self.ball()
        if not ball.radius:
            return pixels.clone()
        aims = self.targets(labels, rows, victim.classes) if self.targeted else labels
        seeds = rows.integers("library", 0, 2**31 - 1)[:, 0]
        parts = []
        for first in range(0, len(pixels), self.images_at_once):
            group = slice(first, first + self.images_at_once)
            module = VictimModule(victim, pixels.device).eval()
            with seeded(seed := int(seeds[first])):
                given = pixels[group].clone(memory_format=torch.contiguous_format)
                found = self.examples(module, given, aims[group], seed)
            parts.append(ball.project(found.detach().to(pixels), pixels[group]))
        return torch.cat(parts)

    def examples(self, module: VictimModule, pixels: Tensor, aims: Tensor, seed: int) -> Tensor:
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
    """The process's own generators under a seed, given back as they were.

    Warnings are ignored, and what is printed is thrown away: standard output is the program's.
    """
    import numpy as np
    import torch

    states = random.getstate(), np.random.get_state()  # noqa: NPY002  what libraries use
    with (
        torch.random.fork_rng(),
        warnings.catch_warnings(),
        redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


def _beside(name: str, value: JsonValue) -> str:
    """The key of an attack that a library's parameter would override, with its value."""
    if name == "eps":
        number = float(value) if isinstance(value, int | float) else 8.0
        return f"epsilon: {number if number >= 1 else 255 * number:.4g} (in 1/255)"
    if name == "norm":
        return f"norm: {'l2' if str(value).lower() in {'2', 'l2'} else 'linf'}"
    return f"{name}: {str(value).lower()}"


def _default(known: Mapping[str, inspect.Parameter], name: str) -> float | None:
    value = known[name].default if name in known else None
    return float(value) if isinstance(value, int | float) else None
