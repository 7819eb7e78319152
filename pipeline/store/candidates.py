"""Statistics of the candidates of an adaptive attack, as stored in the facts of records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import BaseModel, TypeAdapter, ValidationError


class Candidate(BaseModel, frozen=True):
    """One candidate of a cascade, in one shard or summed over the shards of a cell.

    Attributes:
        images: Number of images that it was made for and tried on: those that no earlier one broke.
        broken: Number of these on which the defended model then surely failed.
        chosen: Number of images for which this candidate was kept.
        failed_draws_percent: Share of the attacker's draws on `images` that failed.
        forwards, backwards: Passes through the network that it took to make it.
    """

    candidate: str
    images: int = 0
    broken: int = 0
    chosen: int = 0
    failed_draws_percent: float = 0.0
    forwards: int = 0
    backwards: int = 0

    def __add__(self, other: Candidate) -> Candidate:
        images = self.images + other.images
        failed = self.failed_draws_percent * self.images + other.failed_draws_percent * other.images
        return Candidate(
            candidate=self.candidate,
            images=images,
            broken=self.broken + other.broken,
            chosen=self.chosen + other.chosen,
            failed_draws_percent=failed / images if images else 0.0,
            forwards=self.forwards + other.forwards,
            backwards=self.backwards + other.backwards,
        )


_LIST = TypeAdapter(list[Candidate])


def candidates_in(facts: Mapping[str, object]) -> list[Candidate]:
    """The candidates in the facts of a select or score record, cheapest first; empty if none."""
    try:
        return _LIST.validate_python(facts.get("candidates", []))
    except ValidationError:  # written by an older version
        return []


def added_up(shards: Iterable[Iterable[Candidate]]) -> list[Candidate]:
    """Sum candidates of the same name over several shards, which need not have all of them."""
    found: dict[str, Candidate] = {}
    for candidates in shards:
        for each in candidates:
            found[each.candidate] = (
                found[each.candidate] + each if each.candidate in found else each
            )
    return list(found.values())


def facts_of(candidates: Iterable[Candidate]) -> list[dict[str, object]]:
    """Convert to the form that records store."""
    return [each.model_dump() for each in candidates]
