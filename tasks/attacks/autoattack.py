"""AutoAttack (Croce and Hein, ICML 2020): four attacks, each on what the earlier ones left."""

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
"""Margin, in probability, beyond which a wrong answer cannot change by rounding."""

TOGETHER = 100
"""Images given to FAB at once. It starts at the image and draws nothing, so this changes no
result."""


class AutoAttack(CompoundAttack):
    """The standard AutoAttack, for deterministic models only.

    In this order: APGD on the cross-entropy, APGD-T, targeted FAB (a minimum-norm attack, from
    torchattacks) and Square, with the published numbers of steps and queries. All of them attack
    the model that is judged, with its defense if it has one.
    """

    version: ClassVar[int] = 1
    draws_nothing: ClassVar[bool] = True
    kind: Literal["autoattack"] = "autoattack"
    steps: Count = 100
    """Steps of each APGD run, and of FAB to each class."""
    queries: Count = 5000
    """Queries of the Square Attack for each image."""
    target_classes: Count = 9
    """Number of wrong classes, the most probable ones, that APGD-T and FAB target."""
    minimum_norm: bool | None = None
    """Whether to include FAB; by default, if torchattacks is installed."""

    def resolved(self, problem: Problem) -> Self:
        """Return the spec with the problem's epsilon and classes, and `minimum_norm` decided."""
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
            # FAB targets one class fewer than its n_classes
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
        """See `CompoundAttack.first_tries`: the first attack, which is made on all images."""
        return 1

    def longest(self) -> tuple[int, int]:
        """See `CompoundAttack.longest`."""
        return self.steps, 1

    def choice(self, *, deterministic: bool) -> Choice:  # noqa: ARG002
        """See `CompoundAttack.choice`: a single answer decides, as the model is deterministic."""
        return Choice(draws=1, predictions=0, margin=ROUNDING)

    def notes(self) -> tuple[str, ...]:
        """A line if FAB was left out because torchattacks is not installed."""
        if self.minimum_norm or find_spec(TorchattacksAttack.library) is not None:
            return ()
        library = absent(TorchattacksAttack.library)
        return (f"autoattack without its minimum-norm attack FAB: {library}",)
