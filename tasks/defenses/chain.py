"""Defenses in a row: 'counter+guo', 'xie+guo' and the others of Tables I to IV."""

from __future__ import annotations

from collections import Counter as Tally
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, SerializeAsAny, model_validator

from tasks.defenses.base import Context, Defense, GradientRule
from tasks.specs import Problem

if TYPE_CHECKING:
    from torch import Tensor

    from tasks.data.seeding import Rows


class Chain(Defense):
    """Each part takes what the one before it gives.

    Leading parts with `once` are applied once a prediction, all others in each draw. The
    number of draws is that of the last part unless it is given, and 1 where that part is
    `once`. A kind that comes twice draws twice, independently.
    """

    kind: Literal["chain"] = "chain"
    version: ClassVar[int] = 1

    parts: Annotated[tuple[SerializeAsAny[Defense], ...], Field(strict=False, min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _draws_of_the_last(cls, data: Any) -> Any:
        if isinstance(data, dict) and "draws" not in data and data.get("parts"):
            last = data["parts"][-1]
            if isinstance(last, Defense):
                return {**data, "draws": 1 if last.once else last.draws}
        return data

    @model_validator(mode="after")
    def _one_pool(self) -> Self:
        pools = {part.pool_split() for _, part in self.stages() if part.needs_pool()}
        if len(pools) > 1:
            raise ValueError("the parts of a chain must take one pool, train or test")
        return self

    @model_validator(mode="after")
    def _only_the_last_may(self) -> Self:
        for _, part in self.stages()[:-1]:
            if part.combines():
                raise ValueError(
                    f"{part.kind} combines several answers, which only the last part of a chain "
                    "can: put it last"
                )
            if part.leaves_range():
                raise ValueError(
                    f"{part.kind} may leave the range of pixels, which the part after it takes: "
                    "put it last"
                )
        return self

    def resolved(self, problem: Problem) -> Self:
        """The chain of the resolved parts."""
        return self.model_copy(
            update={"parts": tuple(part.resolved(problem) for part in self.parts)}
        )

    def deterministic(self, classes: int) -> bool:
        """Whether every part is."""
        return all(part.deterministic(classes) for part in self.parts)

    def smooths(self) -> bool:
        """Whether any part does."""
        return any(part.smooths() for part in self.parts)

    def gradients(self) -> tuple[GradientRule, ...]:
        """Every rule of any part; straight through only where all of them pass one so."""
        declared = {rule for part in self.parts for rule in part.gradients()}
        if not all("straight-through" in part.gradients() for part in self.parts):
            declared.discard("straight-through")
        return tuple(rule for rule in get_args(GradientRule) if rule in declared)

    def views(self, classes: int) -> int:
        """Those of the last part."""
        return self.parts[-1].views(classes)

    def combine(self, logits: Tensor) -> Tensor:
        """As the last part does."""
        return self.parts[-1].combine(logits)

    def surrogate(self, logits: Tensor) -> Tensor:
        """As the last part does."""
        return self.parts[-1].surrogate(logits)

    def combines(self) -> bool:
        """Whether the last part does."""
        return self.parts[-1].combines()

    def asks_members(self) -> bool:
        """Whether the last part does."""
        return self.parts[-1].asks_members()

    def abstains(self, probabilities: Tensor, draws: int) -> Tensor | None:
        """As the last part does."""
        return self.parts[-1].abstains(probabilities, draws)

    def inner_steps(self) -> int:
        """Those of the part that takes most."""
        return max(part.inner_steps() for part in self.parts)

    def shorter(self, steps: int) -> Self:
        """The chain of the shorter parts."""
        return self.model_copy(update={"parts": tuple(part.shorter(steps) for part in self.parts)})

    def leaves_range(self) -> bool:
        """Whether the last part does."""
        return self.parts[-1].leaves_range()

    def needs_pool(self) -> bool:
        """Whether any part does."""
        return any(part.needs_pool() for part in self.parts)

    def pool_split(self) -> Literal["train", "test"]:
        """That of the parts which need one: they agree."""
        return next((part.pool_split() for part in self.parts if part.needs_pool()), "train")

    def stages(self) -> tuple[tuple[str, Defense], ...]:
        """The parts in order, chains among them taken apart."""
        tally: Tally[str] = Tally()
        stages = []
        for whole in self.parts:
            for _, part in whole.stages():
                stages.append((f"{part.kind}#{tally[part.kind]}", part))
                tally[part.kind] += 1
        return tuple(stages)

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
        """All parts in order, each with streams of its own."""
        for scope, part in self.stages():
            pixels = part.transform(pixels, rows.within(scope), context)
        return pixels
