"""The attack that knows the defense: what it tries, and what an image is given of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from tasks.attacks.apgd import APGD
from tasks.attacks.base import Attack, BoundedAttack
from tasks.attacks.pgd import PGD
from tasks.attacks.square import Square
from tasks.defenses.base import Defense
from tasks.specs import Count, Positive, Problem

TRANSFERRED: tuple[Attack, ...] = (
    PGD(steps=50),
    APGD(steps=50, random_start=False),
    PGD(steps=50, loss="margin"),
    PGD(steps=50, loss="margin", confidence=10.0),
)
"""Stage 0 of the protocol: attacks on the bare model, whose examples are tried on the defended."""


@dataclass(frozen=True)
class Try:
    """One candidate: an attack on the defended model.

    draws: at each step; warm: it begins at the best of what was transferred; images: of the
    first so many, or of all; smoothing: see `tasks.defenses.base.Context`.
    """

    name: str
    attack: Attack
    draws: int
    warm: bool = False
    images: int | None = None
    smoothing: float | None = None


class Adaptive(BoundedAttack):
    """An untargeted attack with a budget, made of candidates; see `tries`.

    transferred: attacks on the bare model, a list of its own, so that no other attack of a grid
    changes it. On the defended model APGD climbs each of `losses` from the image, from the best
    that was transferred and from `random_starts` points, with `draws` draws and so many `steps`;
    where the defense has a sign, again with that smoothed. Square asks about the first
    `square_images`. An image gets the candidate that fails most often on `select_draws` draws.

    images: how many are attacked at most; redraws: how often the defended model is then asked.
    """

    version: ClassVar[int] = 1
    compound: ClassVar[bool] = True
    kind: Literal["adaptive"] = "adaptive"
    transferred: Annotated[tuple[SerializeAsAny[Attack], ...], Field(strict=False)] = TRANSFERRED
    losses: Annotated[
        tuple[Literal["cross-entropy", "margin", "dlr"], ...], Field(strict=False, min_length=1)
    ] = ("margin",)
    """What APGD climbs, one candidate for each and each start."""
    random_starts: Annotated[int, Field(ge=0, le=10**6)] = 0
    """Of one candidate more; 0 for none."""
    steps: Count = 20
    """Of each climb."""
    draws: Count = 5
    """Of the defense, at each step."""
    smoothing: Positive | None = None
    """Width of the smoothed sign, of a defense that has one; none leaves that candidate out."""
    square_queries: Count | None = None
    """Of the Square attack; none leaves it out."""
    square_draws: Count = 20
    """Of the defense, at each query."""
    square_images: Count = 100
    """How many images Square is tried on."""
    select_draws: Count = 20
    """By which the candidate is chosen."""
    images: Count | None = 200
    redraws: Count | None = 3

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.targeted:
            raise ValueError("targeted: an adaptive attack is untargeted; leave it out")
        for attack in self.transferred:
            norm = attack.norm if isinstance(attack, BoundedAttack) else self.norm
            if norm != self.norm:
                raise ValueError(
                    f"transferred: {attack.kind} has the norm {norm}, and its examples have to lie "
                    f"in the ball of the norm {self.norm}"
                )
        if len(set(self.losses)) < len(self.losses):
            raise ValueError(f"losses {list(self.losses)} has one twice")
        return self

    @field_validator("transferred", mode="before")
    @classmethod
    def _by_their_kinds(cls, value: Any) -> Any:
        """Attacks from mappings with a `kind`, as a config file has them."""
        from tasks import registry

        def attack(each: Any) -> Any:
            if not isinstance(each, dict):
                return each
            known = [kind for kind in registry.kinds("attacks") if kind != "adaptive"]
            if each.get("kind") not in known:
                raise ValueError(f"kind {each.get('kind')!r}; known: {', '.join(known)}")
            return registry.kind_class("attacks", each["kind"]).model_validate(each)

        return [attack(each) for each in value] if isinstance(value, list) else value

    def resolved(self, problem: Problem) -> Self:
        """With the problem's epsilon, in the attacks that are transferred as well."""
        filled = super().resolved(problem)
        assert filled.epsilon is not None
        inner = Problem(filled.epsilon, problem.classes, problem.side, problem.pool)
        transferred = tuple(attack.resolved(inner) for attack in self.transferred)
        for attack in transferred:
            if isinstance(attack, BoundedAttack) and (attack.epsilon or 0.0) > filled.epsilon:
                raise ValueError(
                    f"transferred: {attack.kind} has an epsilon of {attack.epsilon:g}, and this "
                    f"attack of {filled.epsilon:g}"
                )
        return filled.model_copy(update={"transferred": transferred})

    def tries(self, defense: Defense) -> tuple[Try, ...]:
        """The candidates that are made on the defended model."""
        smoothings = [None, self.smoothing] if self.smoothing and defense.smooths() else [None]
        found = [
            Try(
                f"{loss}-{start}" + ("-smoothed" if smoothing else ""),
                self._climb(loss, random_starts=self.random_starts if start == "random" else 0),
                self.draws,
                warm=start == "transferred",
                smoothing=smoothing,
            )
            for loss in self.losses
            for smoothing in smoothings
            for start in self._starts()
        ]
        if self.square_queries is not None:
            square = Square(norm=self.norm, epsilon=self.epsilon, queries=self.square_queries)
            found.append(Try("square", square, self.square_draws, images=self.square_images))
        return tuple(found)

    def _starts(self) -> tuple[str, ...]:
        warm = ("transferred",) if self.transferred else ()
        return ("image", *warm, *(("random",) if self.random_starts else ()))

    def _climb(self, loss: Literal["cross-entropy", "margin", "dlr"], random_starts: int) -> APGD:
        return APGD(
            norm=self.norm,
            epsilon=self.epsilon,
            loss=loss,
            steps=self.steps,
            restarts=max(1, random_starts),
            random_start=random_starts > 0,
        )
