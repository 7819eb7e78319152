"""Defenses in sequence: 'counter+guo', 'xie+guo' and the others of Tables I to IV."""

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
    """Defenses in sequence: each part transforms the result of the one before it.

    Leading parts with `once` are applied once per prediction, all others in each draw. Unless it is
    given, the number of draws is that of the last part, or 1 if that part is `once`. A kind that
    occurs twice draws twice, independently.
    """

    kind: Literal["chain"] = "chain"
    version: ClassVar[int] = 1

    parts: Annotated[tuple[SerializeAsAny[Defense], ...], Field(strict=False, min_length=1)]
    """The defenses, in order."""

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
        """Return the chain of the resolved parts."""
        return self.model_copy(
            update={"parts": tuple(part.resolved(problem) for part in self.parts)}
        )

    def deterministic(self, classes: int) -> bool:
        """Return whether every part is deterministic."""
        return all(part.deterministic(classes) for part in self.parts)

    def smooths(self) -> bool:
        """Return whether any part smooths."""
        return any(part.smooths() for part in self.parts)

    def gradients(self) -> tuple[GradientRule, ...]:
        """Return every rule of any part; `straight-through` only if all parts declare it."""
        declared = {rule for part in self.parts for rule in part.gradients()}
        if not all("straight-through" in part.gradients() for part in self.parts):
            declared.discard("straight-through")
        return tuple(rule for rule in get_args(GradientRule) if rule in declared)

    def views(self, classes: int) -> int:
        """Return the number of views of the last part."""
        return self.parts[-1].views(classes)

    def combine(self, logits: Tensor) -> Tensor:
        """Combine as the last part does."""
        return self.parts[-1].combine(logits)

    def surrogate(self, logits: Tensor) -> Tensor:
        """Return the surrogate of the last part."""
        return self.parts[-1].surrogate(logits)

    def combines(self) -> bool:
        """Return whether the last part combines."""
        return self.parts[-1].combines()

    def asks_members(self) -> bool:
        """Return whether the last part asks members."""
        return self.parts[-1].asks_members()

    def abstains(self, probabilities: Tensor, draws: int) -> Tensor | None:
        """Abstain as the last part does."""
        return self.parts[-1].abstains(probabilities, draws)

    def inner_steps(self) -> int:
        """Return the largest number of inner steps of any part."""
        return max(part.inner_steps() for part in self.parts)

    def shorter(self, steps: int) -> Self:
        """Return the chain of the shorter parts."""
        return self.model_copy(update={"parts": tuple(part.shorter(steps) for part in self.parts)})

    def leaves_range(self) -> bool:
        """Return whether the last part leaves the range."""
        return self.parts[-1].leaves_range()

    def needs_pool(self) -> bool:
        """Return whether any part needs a pool."""
        return any(part.needs_pool() for part in self.parts)

    def pool_split(self) -> Literal["train", "test"]:
        """Return the split of the parts that need a pool, which agree."""
        return next((part.pool_split() for part in self.parts if part.needs_pool()), "train")

    def stages(self) -> tuple[tuple[str, Defense], ...]:
        """Return the parts in order, with chains among them expanded."""
        tally: Tally[str] = Tally()
        stages = []
        for whole in self.parts:
            for _, part in whole.stages():
                stages.append((f"{part.kind}#{tally[part.kind]}", part))
                tally[part.kind] += 1
        return tuple(stages)

    def transform(self, pixels: Tensor, rows: Rows, context: Context) -> Tensor:
        """Apply all parts in order, each with random streams of its own."""
        for scope, part in self.stages():
            pixels = part.transform(pixels, rows.within(scope), context)
        return pixels
