"""Published claims about defenses, read from `configs/claims/`: one file for each source.

A claim was measured by somebody else, on another network. Reports show it beside the results
measured here; it does not affect any verdict.
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
    """Refers to a number in the paper's tables; see `configs/paper/`."""

    model: str
    """Name of a model in the paper's tables."""
    attack: str
    """Name of an attack in the paper's tables."""


class ClaimEntry(ConfigEntry):
    """One claim: the accuracy of a network under an attack, with a defense and without it.

    Give either `after`, and `before` if it is known, or `paper`.
    """

    defense: str
    """Name of a defense, or of a chain such as `counter+guo`."""
    network: str
    """Description of the network."""
    dataset: str = "cifar10"
    """Name of a data set, or what the source calls it."""
    attack: str
    """Description of the attack."""
    attacked: Attacked
    """Which model the attack was made against: `bare` for the undefended network, whose adversarial
    examples were then replayed against the defense; `defended` if the attack knew the defense."""
    epsilon: Positive | None = None
    """Size of the perturbation, in 1/255."""
    before: Percents | None = None
    """Accuracy under the attack without the defense, in percent."""
    after: Percents | None = None
    """Accuracy under the attack with the defense, in percent."""
    images: Count | None = None
    """Number of test images."""
    paper: PaperPlace | None = None
    """Take both accuracies from the paper's tables instead."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.after is None) == (self.paper is None) or (self.paper and self.before is not None):
            raise ValueError("give either after, and before where it is known, or paper")
        return self


class ClaimsEntry(ConfigEntry):
    """What one source claims about defenses."""

    source: str
    """Reference: authors, title and place of publication."""
    by: Literal["authors", "others"] = "authors"
    """Who claims it: the `authors` of the defense, or `others` who evaluated it."""
    claims: Annotated[tuple[ClaimEntry, ...], Field(strict=False, min_length=1)]
    """The claims of this source."""


@dataclass(frozen=True)
class Claim:
    """A claim with its numbers resolved; `file` is the stem of its file's name."""

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
    """Model of the paper that the claim is about, if its numbers are from the paper."""


def claims(catalogue: Catalogue) -> dict[str, tuple[Claim, ...]]:
    """Load all claims, grouped by defense: those of its authors first, then those of others.

    Raises:
        BadInput: If an entry is invalid, or refers to a number that the paper does not have.
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
