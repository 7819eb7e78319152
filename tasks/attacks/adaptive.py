"""The attack that knows the defense: a cascade of candidates, from cheap to dear.

An image that the defended model surely fails on is done: no later candidate is made for it. What
a candidate makes of an image depends on that image alone, and on nothing that was tried before
it, so a cascade leaves the same images standing as trying every candidate on every image does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator, model_validator

from tasks.attacks.apgd import APGD
from tasks.attacks.apgd_t import APGDT
from tasks.attacks.base import Attack, BallAttack, Choice, CompoundAttack, Start, Try
from tasks.attacks.pgd import PGD
from tasks.attacks.search.ways import aimed_ways, ways
from tasks.attacks.square import Square
from tasks.defenses.base import Defense
from tasks.specs import Count, NonNegative, Positive, Problem, Spec

TRANSFERRED: tuple[Attack, ...] = (
    PGD(steps=50),
    APGD(steps=50, random_start=False),
    PGD(steps=50, loss="margin"),
    PGD(steps=50, loss="margin", confidence=10.0),
)
"""Stage 0 of the protocol: attacks on the bare model, whose examples are tried on the defended."""


COMPOUND = ("adaptive", "autoattack", "direct")
"""Attacks that are made of others, and so are none of the others."""

ROUNDING = 1e-4
"""The margin, in probability, beyond which a deterministic model repeats its answer."""


Losses = Annotated[
    tuple[Literal["cross-entropy", "margin", "dlr"], ...], Field(strict=False, min_length=1)
]


Targets = Annotated[int, Field(ge=0, le=10**5)]


class Climbs(Spec):
    """Climbs of APGD on the defended model: a candidate for each loss and each start.

    They begin at the image, at the best that was transferred and, as one candidate more, at
    `random_starts` random points. After them one leads to each of the `target_classes` wrong
    classes that are most probable; see `tasks.attacks.apgd_t.APGDT`.
    """

    losses: Losses = ("margin",)
    """What is climbed."""
    random_starts: Annotated[int, Field(ge=0, le=10**6)] = 0
    """Of one candidate more; 0 for none."""
    steps: Count = 20
    """Of each climb."""
    draws: Count = 5
    """Of the defense, at each step."""
    smoothing: Positive | None = None
    """Width of the smoothed sign, of a defense that has one; none leaves that candidate out."""
    relu_width: Positive | None = None
    """Width of the second derivative of ReLUs (leaky ones, ReLU6, hardtanh and clamps at 0 too)
    where a climb goes back through a gradient, in standard deviations of what a ReLU is asked
    about; none leaves it zero. A run says how many ReLUs of a network it does not reach."""
    target_classes: Targets = 0
    """How many of the wrong classes are aimed at, the most probable ones, a candidate for each."""


class Adaptive(CompoundAttack):
    """An untargeted attack with a budget, made of candidates from cheap to dear; see `tries`.

    First those of `transferred`. Then, on the defended model, APGD: the climbs of `cheaper` in
    their order, then those of each of `losses` from the image, from the best that was
    transferred and from `random_starts` points, with `draws` draws and so many `steps`; where
    the defense has a sign, again with that smoothed; then those to the `target_classes` wrong
    classes that the defended model finds most probable, with the sign smoothed as well. Last
    Square, about the first `square_images`. An image that fails on all of the attacker's draws,
    `select_draws` single ones and `select_predictions` whole predictions, and by `sure_margin` on
    each, is done: no later candidate is made for it. Any other gets the candidate that fails most
    often.

    images: how many are attacked at most; redraws: how often the defended model is then asked.
    """

    version: ClassVar[int] = 3
    changes: ClassVar[Mapping[int, str]] = {
        2: "candidates for the images that still stand alone",
        3: "climbs to the most probable wrong classes, and more ways through inner optimisers",
    }
    kind: Literal["adaptive"] = "adaptive"
    transferred: Annotated[tuple[SerializeAsAny[Attack], ...], Field(strict=False)] = TRANSFERRED
    """Attacks on the bare model: a list of its own, so that no other attack of a grid counts."""
    cheaper: Annotated[tuple[Climbs, ...], Field(strict=False)] = ()
    """Climbs that are tried before, on all images: what falls to them needs none of the others."""
    losses: Losses = ("margin",)
    """What APGD climbs, one candidate for each and each start."""
    random_starts: Annotated[int, Field(ge=0, le=10**6)] = 0
    """Of one candidate more; 0 for none."""
    steps: Count = 20
    """Of each climb."""
    draws: Count = 5
    """Of the defense, at each step."""
    smoothing: Positive | None = None
    """Width of the smoothed sign, of a defense that has one; none leaves that candidate out."""
    relu_width: Positive | None = None
    """Width of the second derivative of ReLUs (leaky ones, ReLU6, hardtanh and clamps at 0 too)
    where a climb goes back through a gradient, in standard deviations of what a ReLU is asked
    about; none leaves it zero. A run says how many ReLUs of a network it does not reach."""
    target_classes: Targets = 0
    """How many of the wrong classes are aimed at, the most probable ones, a candidate for each."""
    square_queries: Count | None = None
    """Of the Square attack; none leaves it out."""
    square_draws: Count = 20
    """Of the defense, at each query."""
    square_images: Count = 100
    """How many images Square is tried on."""
    select_draws: Count = 20
    """Single draws of the defense by which the candidate is chosen."""
    select_predictions: Count = 1
    """Whole predictions of the defense by which the candidate is chosen as well."""
    sure_margin: NonNegative | None = 0.05
    """How far the true class is below the highest, in probability, on each of these draws, for an
    image to be done; none makes every candidate for every image."""
    images: Count | None = 200
    redraws: Count | None = 3

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.losses)) < len(self.losses):
            raise ValueError(f"losses {list(self.losses)} has one twice")
        return self

    @field_validator("transferred", mode="before")
    @classmethod
    def _by_their_kinds(cls, value: Any, info: ValidationInfo) -> Any:
        """Attacks from mappings with a `kind`, as a config file has them."""
        from tasks import registry

        def attack(each: Any) -> Any:
            if not isinstance(each, dict):
                return each
            known = [kind for kind in registry.kinds("attacks") if kind not in COMPOUND]
            if each.get("kind") not in known:
                raise ValueError(f"kind {each.get('kind')!r}; known: {', '.join(known)}")
            found = registry.kind_class("attacks", each["kind"])
            return found.model_validate(each, context=info.context)

        return [attack(each) for each in value] if isinstance(value, list) else value

    def resolved(self, problem: Problem) -> Self:
        """With the problem's epsilon, in the attacks that are transferred as well.

        These have the norm and the epsilon of this attack where they say nothing else; ValueError
        where one of them may leave its ball.
        """
        filled = super().resolved(problem)
        assert filled.epsilon is not None
        inner = Problem(filled.epsilon, problem.classes, problem.side, problem.pool)
        transferred = tuple(_inside(filled, attack).resolved(inner) for attack in self.transferred)
        # the loss that leads to a target needs four classes, and of two there is one other
        most = problem.classes - 1 if problem.classes >= 4 else 0
        update = {
            "transferred": transferred,
            "target_classes": min(self.target_classes, most),
            "cheaper": tuple(
                each.model_copy(update={"target_classes": min(each.target_classes, most)})
                for each in self.cheaper
            ),
        }
        return filled.model_copy(update=update)

    def choice(self, *, deterministic: bool) -> Choice:
        """The margin is no more than rounding for a model that always answers the same."""
        margin = self.sure_margin
        if margin is not None and deterministic:
            margin = min(margin, ROUNDING)
        return Choice(self.select_draws, self.select_predictions, margin)

    def transfers(self) -> dict[str, Attack]:
        """See `CompoundAttack.transfers`."""
        found: dict[str, Attack] = {}
        for attack in self.transferred:
            words = ["transferred", attack.kind]
            if isinstance(attack, PGD | APGD) and attack.loss is not None:
                words.append(attack.loss)
            if isinstance(attack, PGD) and attack.confidence:
                words.append(f"{attack.confidence:g}")
            name = "-".join(words)
            same = sum(other == name or other.startswith(f"{name}#") for other in found)
            found[f"{name}#{same + 1}" if same else name] = attack
        return found

    def tries(self, defense: Defense) -> tuple[Try, ...]:
        """See `CompoundAttack.tries`."""
        found = {
            attempt.name: attempt
            for climbs in self._sets()
            for attempt in self._climbs(climbs, defense)
        }
        if self.square_queries is not None:
            square = Square(norm=self.norm, epsilon=self.epsilon, queries=self.square_queries)
            name = f"square-{self.square_queries}x{self.square_draws}"
            found[name] = Try(name, square, self.square_draws, images=self.square_images)
        return tuple(found.values())

    def first_tries(self, defense: Defense) -> int:
        """How many of `tries` are of the cheapest climbs."""
        return sum(1 for _ in self._climbs(self._sets()[0], defense))

    def longest(self) -> tuple[int, int]:
        """See `CompoundAttack.longest`."""
        return self.steps, self.draws

    def _sets(self) -> tuple[Climbs, ...]:
        own = {key: getattr(self, key) for key in Climbs.model_fields}
        return (*self.cheaper, Climbs.model_validate(own))

    def _climbs(self, climbs: Climbs, defense: Defense) -> Iterator[Try]:
        starts: dict[str, tuple[Start, int]] = {"image": ("own", 0)}
        if self.transferred:
            starts["transferred"] = ("transferred", 0)
        if climbs.random_starts:
            starts[f"random{climbs.random_starts}"] = ("own", climbs.random_starts)
        best: dict[str, tuple[Start, int]] = {"best": ("best", 0)}
        for way in ways(defense, climbs.smoothing, climbs.relu_width):
            for loss in climbs.losses:
                for name, (start, count) in (best if way.extra else starts).items():
                    attack = APGD(
                        norm=self.norm,
                        epsilon=self.epsilon,
                        loss=loss,
                        steps=climbs.steps,
                        restarts=max(1, count),
                        random_start=count > 0,
                    )
                    yield Try(
                        f"{loss}-{name}-{climbs.steps}x{climbs.draws}{way.suffix}",
                        attack,
                        climbs.draws,
                        start=start,
                        smoothing=way.smoothing,
                        rule=way.rule,
                        inner_steps=way.inner_steps,
                        relu_width=way.relu_width,
                    )
        for rank in range(1, climbs.target_classes + 1):
            aimed = APGDT(norm=self.norm, epsilon=self.epsilon, steps=climbs.steps, ranks=(rank,))
            name = f"{aimed.loss}-target{rank}-{climbs.steps}x{climbs.draws}"
            for way in aimed_ways(defense, climbs.smoothing, climbs.relu_width):
                yield Try(
                    f"{name}{way.suffix}",
                    aimed,
                    climbs.draws,
                    smoothing=way.smoothing,
                    inner_steps=way.inner_steps,
                    relu_width=way.relu_width,
                )


def _inside(whole: Adaptive, attack: Attack) -> Attack:
    """A transferred attack in the ball of the whole one, whose epsilon is set."""
    if not isinstance(attack, BallAttack):
        return attack
    fields = {name: getattr(attack, name) for name in attack.model_fields_set}
    if attack.epsilon is None:
        fields["epsilon"] = whole.epsilon
    filled = type(attack).model_validate({"norm": whole.norm, **fields})
    assert filled.epsilon is not None
    assert whole.epsilon is not None
    if filled.norm != whole.norm:
        raise ValueError(
            f"transferred: {attack.kind} has the norm {filled.norm}, and its examples have to lie "
            f"in the ball of the norm {whole.norm}"
        )
    if filled.epsilon > whole.epsilon:
        raise ValueError(
            f"transferred: {attack.kind} has an epsilon of {filled.epsilon:g}, and this attack of "
            f"{whole.epsilon:g}"
        )
    return filled
