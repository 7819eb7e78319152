"""Attacks of other libraries, by class name and parameters: ART, foolbox, torchattacks.

These libraries draw from the process's global generators, for a whole batch at once. Therefore
images are attacked one at a time by default, under a seed derived from the image, so that an image
gets the same example whatever its batch.
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
"""Norm that a library's attack bounds or minimises."""

STEP_SIZES = ("alpha", "eps_step", "abs_stepsize")
"""Names of step sizes in these libraries, all in units in which the pixel range is 1."""

_IN_A_NAME = re.compile(r"L(0|1|2|[Ii]nf(?:inity)?)(?![a-z0-9])")


class LibraryAttack(BoundedAttack):
    """An attack of another library, whose result is projected into the ball.

    Epsilon is passed on. A step size that is not given keeps its ratio to epsilon in the library's
    defaults.
    """

    measures: ClassVar[Mapping[str, Measure]] = {}
    """Norms of classes whose name does not contain theirs, as `L2PGD` does. Classes that take the
    norm as a parameter are left out."""

    attack: Annotated[str, Field(pattern=r"^\w+$")]
    """Name of the library's class, whose norm must be `norm`."""
    parameters: dict[str, JsonValue] = Field(default_factory=dict)
    """Arguments of the class, in the library's own units (the pixel range is 1). Epsilon, norm and
    targeted are keys of the attack itself; a step size is scaled with epsilon unless it is
    given."""
    images_at_once: Count = 1
    """Images passed to the library at once, which share its random numbers; above 1, an example
    depends on the other images of its batch."""

    @model_validator(mode="after")
    def _of_the_cell(self) -> Self:
        """Refuse a norm, epsilon or step size that would not be that of the attack's ball."""
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
        """Return the norm of the library's class; None where the class takes it, or unknown."""
        named = _IN_A_NAME.search(self.attack)
        if named is None:
            return self.measures.get(self.attack)
        found: Mapping[str, Measure] = {"0": "l0", "1": "l1", "2": "l2"}
        return found.get(named[1], "linf")

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    def perturb(self, victim: Victim, pixels: Tensor, labels: Tensor, rows: Rows) -> Tensor:
        """Return the library's examples, projected into the ball."""
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
        """Return what the library makes of some images.

        Args:
            module: The victim.
            pixels: float32 [n, C, H, W] in [0, 1].
            aims: int64 [n], the targets of a targeted attack, otherwise the true classes.
            seed: For libraries that take one; the global generators are seeded already.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define examples")

    def made(
        self, module: str, *leading: object, fill: Mapping[str, object], keep: str = ""
    ) -> Any:
        """Return an instance of the library's class, with `parameters` and what it takes of `fill`.

        Args:
            module: The library's module that holds its attacks.
            leading: Positional arguments.
            fill: Keyword arguments, used where the class takes them and `parameters` does not set
                them.
            keep: Name of the step size to scale with epsilon.

        Raises:
            LibraryProblem: If the library, the class or one of its parameters does not exist.
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
    """Seed the global generators of Python, NumPy and torch, and restore their states afterwards.

    Meanwhile warnings are ignored and standard output is discarded, since that is the program's
    own.
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
    """Return the attack's own key, with a value, that replaces a parameter of the library's."""
    if name == "eps":
        number = float(value) if isinstance(value, int | float) else 8.0
        return f"epsilon: {number if number >= 1 else 255 * number:.4g} (in 1/255)"
    if name == "norm":
        return f"norm: {'l2' if str(value).lower() in {'2', 'l2'} else 'linf'}"
    return f"{name}: {str(value).lower()}"


def _default(known: Mapping[str, inspect.Parameter], name: str) -> float | None:
    value = known[name].default if name in known else None
    return float(value) if isinstance(value, int | float) else None
