"""What has been published of defenses, read strictly from `configs/claims/`: one file a source.

A claim is what somebody measured on a network of theirs, and stands beside what is measured here
on other networks: it is shown, and decides nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.catalogue.catalogue import Catalogue
from pipeline.catalogue.documents import Place, read_yaml
from pipeline.catalogue.paper import Key, Published, published
from pipeline.catalogue.validation import ConfigEntry, validated
from tasks.specs import Count, Positive

Attacked = Literal["bare", "defended"]
Percents = Annotated[float, Field(ge=0, le=100)]


class PaperPlace(ConfigEntry):
    """Which of the paper's published numbers a claim is about; see `configs/paper/`."""

    model: str
    """Name of a model of the paper's."""
    attack: str
    """Name of an attack of the paper's."""


class ClaimEntry(ConfigEntry):
    """One claim: accuracy of a network under an attack, without the defense and with it.

    attacked: `bare` where the examples were made on the network alone and replayed, `defended`
    where the attack knew the defense. `before`, where it is known, and `after` in percent,
    or `paper`, which reads both from the paper's tables.
    """

    defense: str
    """Name of a defense, or of a chain such as `counter+guo`."""
    network: str
    """Which network, in words."""
    dataset: str = "cifar10"
    """Name of a data set, or what the source calls it."""
    attack: str
    """Which attack, in words."""
    attacked: Attacked
    """What the attack was made on."""
    epsilon: Positive | None = None
    """Of the attack, in 1/255."""
    before: Percents | None = None
    """Accuracy under the attack without the defense."""
    after: Percents | None = None
    """Accuracy under the attack with the defense."""
    images: Count | None = None
    """On how many test images."""
    paper: PaperPlace | None = None
    """Where the paper's tables have both numbers."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.after is None) == (self.paper is None) or (self.paper and self.before is not None):
            raise ValueError("give either after, and before where it is known, or paper")
        return self


class ClaimsEntry(ConfigEntry):
    """What one source says of defenses."""

    source: str
    """Authors, title, where it is printed."""
    by: Literal["authors", "others"] = "authors"
    """Whether those who propose the defense say it, or somebody who evaluates it."""
    claims: Annotated[tuple[ClaimEntry, ...], Field(strict=False, min_length=1)]
    """What it says."""


@dataclass(frozen=True)
class Claim:
    """A claim with its numbers; `file` is the stem of the file that holds it."""

    file: str
    source: str
    by: Literal["authors", "others"]
    defense: str
    network: str
    dataset: str
    attack: str
    attacked: Attacked
    epsilon: float | None
    before: float | None
    after: float
    images: int | None
    model: str | None = None
    """The paper's model that it is about."""


def claims(catalogue: Catalogue) -> dict[str, tuple[Claim, ...]]:
    """Every claim by the defense that it is about: its authors' first, then others'.

    BadInput, located, for what is no claim, and for a place of the paper that has no number.
    """
    numbers: dict[Key, Published] = {}
    found: dict[str, list[Claim]] = {}
    for name, path in catalogue.names("claims").items():
        document = read_yaml(path)
        entry = validated(ClaimsEntry, document, (), document.value)
        for position, each in enumerate(entry.claims):
            before, after = each.before, each.after
            if each.paper is not None:
                numbers = numbers or published(catalogue)
                pair = []
                for defense in ("none", each.defense):
                    key = (each.paper.model, each.paper.attack, defense)
                    if key not in numbers:
                        place: Place = ("claims", position, "paper")
                        raise document.problem(place, f"the paper has no number of {'/'.join(key)}")
                    pair.append(numbers[key].value)
                before, after = pair
            assert after is not None
            claim = Claim(
                file=name,
                source=entry.source,
                by=entry.by,
                **each.model_dump(exclude={"before", "after", "paper"}),
                before=before,
                after=after,
                model=each.paper.model if each.paper else None,
            )
            found.setdefault(each.defense, []).append(claim)
    return {
        defense: tuple(sorted(each, key=lambda claim: claim.by)) for defense, each in found.items()
    }
