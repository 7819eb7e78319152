"""AutoAttack (Croce and Hein, ICML 2020): four attacks, each on what the ones before it left."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import ClassVar, Literal, Self

from pydantic import JsonValue

from tasks.attacks.apgd import APGD
from tasks.attacks.apgd_t import APGDT
from tasks.attacks.base import BallAttack, Choice, CompoundAttack, Try
from tasks.attacks.square import Square
from tasks.attacks.torchattacks import FAB, TorchattacksAttack
from tasks.defenses.base import Defense
from tasks.registry import absent
from tasks.specs import Count, Problem

ROUNDING = 1e-4
"""The margin, in probability, beyond which a model repeats its answer."""

TOGETHER = 100
"""Images that FAB is handed at once; from the image itself it draws nothing."""


class AutoAttack(CompoundAttack):
    """The standard AutoAttack, for models that always give an image the same answer.

    In this order: APGD on the cross-entropy, APGD-T, FAB (a minimum-norm attack of torchattacks,
    towards the nine nearest classes) and Square, with the published lengths. All of them are made
    on the model that is judged, the defended one where there is a defense.
    """

    version: ClassVar[int] = 1
    draws_nothing: ClassVar[bool] = True
    kind: Literal["autoattack"] = "autoattack"
    steps: Count = 100
    """Of each climb, and of FAB to each class."""
    queries: Count = 5000
    """Of Square."""
    target_classes: Count = 9
    """To how many of the wrong classes, the nearest ones, APGD-T and FAB lead."""
    minimum_norm: bool | None = None
    """Whether FAB is among them; where torchattacks is installed by default."""

    def resolved(self, problem: Problem) -> Self:
        """With the problem's epsilon and classes, and FAB where there is a library that has it."""
        ranks = tuple(range(1, self.target_classes + 1))
        known = APGDT(steps=self.steps, ranks=ranks).resolved(problem)
        update: dict[str, object] = {"target_classes": len(known.ranks)}
        if self.minimum_norm is None:
            update["minimum_norm"] = find_spec(TorchattacksAttack.library) is not None
        return super().resolved(problem).model_copy(update=update)

    def tries(self, defense: Defense) -> tuple[Try, ...]:  # noqa: ARG002
        """See `CompoundAttack.tries`."""
        return tuple(Try(name, attack, draws=1) for name, attack in self._attacks())

    def _attacks(self) -> Iterator[tuple[str, BallAttack]]:
        norm, epsilon = self.norm, self.epsilon
        ranks = tuple(range(1, self.target_classes + 1))
        yield "apgd-ce", APGD(norm=norm, epsilon=epsilon, steps=self.steps)
        yield "apgd-t", APGDT(norm=norm, epsilon=epsilon, steps=self.steps, ranks=ranks)
        if self.minimum_norm:
            # FAB leads to one class fewer than it is told that there are
            parameters: dict[str, JsonValue] = {
                "multi_targeted": True,
                "n_classes": self.target_classes + 1,
                "steps": self.steps,
            }
            yield (
                "fab-t",
                TorchattacksAttack(
                    norm=norm,
                    epsilon=epsilon,
                    attack=FAB,
                    parameters=parameters,
                    images_at_once=TOGETHER,
                ),
            )
        yield "square", Square(norm=norm, epsilon=epsilon, queries=self.queries)

    def first_tries(self, defense: Defense) -> int:  # noqa: ARG002
        """The first, which all images are attacked by."""
        return 1

    def longest(self) -> tuple[int, int]:
        """See `CompoundAttack.longest`."""
        return self.steps, 1

    def choice(self, *, deterministic: bool) -> Choice:  # noqa: ARG002
        """One answer tells it."""
        return Choice(draws=1, predictions=0, margin=ROUNDING)

    def notes(self) -> tuple[str, ...]:
        """Whether the minimum-norm attack was left out."""
        if self.minimum_norm or find_spec(TorchattacksAttack.library) is not None:
            return ()
        library = absent(TorchattacksAttack.library)
        return (f"autoattack without its minimum-norm attack FAB: {library}",)
