"""What the candidates of an adaptive attack were asked for, as the facts of records tell it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import BaseModel, TypeAdapter, ValidationError


class Candidate(BaseModel, frozen=True):
    """One candidate of a cascade, in a shard or in all shards of a cell.

    images: how many it was made for and asked about, those that stood; felled: how many of them
    the defended model then surely failed on; chosen: for how many it is the one that was kept;
    failed_draws_percent: of the attacker's draws about `images`; forwards, backwards: passes of
    images through the network that making it took.
    """

    candidate: str
    images: int = 0
    felled: int = 0
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
            felled=self.felled + other.felled,
            chosen=self.chosen + other.chosen,
            failed_draws_percent=failed / images if images else 0.0,
            forwards=self.forwards + other.forwards,
            backwards=self.backwards + other.backwards,
        )


_LIST = TypeAdapter(list[Candidate])


def candidates_in(facts: Mapping[str, object]) -> list[Candidate]:
    """Those of a select or a score record, from cheap to dear; none where it tells of none."""
    try:
        return _LIST.validate_python(facts.get("candidates", []))
    except ValidationError:  # of an older version
        return []


def added_up(shards: Iterable[Iterable[Candidate]]) -> list[Candidate]:
    """By name, over several shards; a shard need not have all of them."""
    found: dict[str, Candidate] = {}
    for candidates in shards:
        for each in candidates:
            found[each.candidate] = (
                found[each.candidate] + each if each.candidate in found else each
            )
    return list(found.values())


def facts_of(candidates: Iterable[Candidate]) -> list[dict[str, object]]:
    """As a record keeps them."""
    return [each.model_dump() for each in candidates]
