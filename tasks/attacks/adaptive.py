"""The adaptive attack: a cascade of candidates against a known defense, from cheap to expensive.

An image that the defended model surely fails on is done, and no later candidate is made for it.
What a candidate makes of an image depends only on that image and, where it starts from an earlier
candidate's point, on what was made of the same image before. The cascade therefore leaves the same
images standing as trying every candidate on every image would.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
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
"""Default of `Adaptive.transferred`."""


COMPOUND = ("adaptive", "autoattack", "direct")
"""Kinds of attacks that are made of others, and so cannot be one of the others."""

ROUNDING = 1e-4
"""Margin, in probability, beyond which a wrong answer of a deterministic model cannot change by
rounding."""


Losses = Annotated[
    tuple[Literal["cross-entropy", "margin", "dlr"], ...], Field(strict=False, min_length=1)
]


Targets = Annotated[int, Field(ge=0, le=10**5)]


class Climbs(Spec):
    """A set of APGD runs on the defended model: one candidate for each loss and each start.

    The starts are the image, the best transferred example and, as one more candidate,
    `random_starts` random points. Then follow further candidates for each other way to pass a
    gradient through the defense, from the best example so far, and one targeted run to each of the
    `target_classes` most probable wrong classes (`tasks.attacks.apgd_t.APGDT`).
    """

    losses: Losses = ("margin",)
    """Objectives that APGD ascends, with candidates of its own for each."""
    random_starts: Annotated[int, Field(ge=0, le=10**6)] = 0
    """Number of random starts of one more candidate, which keeps the best of them; 0 for no such
    candidate."""
    steps: Count = 20
    """Steps of each APGD run."""
    draws: Count = 5
    """Draws of the defense at each step, over which the prediction is averaged (EOT)."""
    smoothing: Positive | None = None
    """Add candidates in which a sign(u) inside the defense is replaced by tanh(u / tau), where tau
    is `smoothing` times the mean of abs(u) over an image. Unset, or for a defense without signs,
    there are none."""
    relu_width: Positive | None = None
    """Second derivative of ReLUs (also leaky ones, ReLU6, hardtanh, and clamps at 0) where an
    attack differentiates a gradient of the network: a Gaussian of this standard deviation, relative
    to that of the ReLU's inputs; unset, it is zero. A run says how many ReLUs this does not
    reach."""
    target_classes: Targets = 0
    """Add targeted runs to this many wrong classes, the most probable ones, as a candidate for
    each."""


class Adaptive(Climbs, CompoundAttack):
    """An untargeted attack with a budget, made of candidates from cheap to expensive.

    Each image gets the candidate on which the defended model fails most often. In order, they are:

    1. The attacks of `transferred`, made on the bare model.

    2. APGD on the defended model: the sets of runs in `cheaper`, then the attack's own. A set has a
    candidate for each of its `losses` from the image, from the best transferred example and from
    `random_starts` random points. They are repeated with smoothed signs if `smoothing` is set, and
    from the best example so far for each other gradient rule of the defense and for a shorter copy
    of its inner optimiser. Targeted runs to the `target_classes` most probable wrong classes come
    last.

    3. Square Attack on the first `square_images` images, if `square_queries` is set.

    An image is done when the defended model is wrong on all `select_draws` single draws and all
    `select_predictions` whole predictions, by `sure_margin` on each. No later candidate is made for
    it.
    """

    version: ClassVar[int] = 3
    changes: ClassVar[Mapping[int, str]] = {
        2: "each candidate is crafted only for images that no earlier candidate broke",
        3: "targeted ascents to the most probable wrong classes, and more gradient rules",
    }
    kind: Literal["adaptive"] = "adaptive"
    transferred: Annotated[tuple[SerializeAsAny[Attack], ...], Field(strict=False)] = TRANSFERRED
    """Attacks on the bare model, whose examples are tried on the defended model first. A list of
    its own, so that results do not depend on the grid's other attacks."""
    cheaper: Annotated[tuple[Climbs, ...], Field(strict=False)] = ()
    """Sets of APGD runs to try before the attack's own: images that are done by these need no
    others."""
    square_queries: Count | None = None
    """Queries of the Square Attack for each image; unset, it is left out."""
    square_draws: Count = 20
    """Draws of the defense at each query of the Square Attack."""
    square_window: Count | None = None
    """How many queries in a row are made on the same draws of a randomised defense. Unset, each
    query draws afresh, and is compared with the best of all earlier draws, so that a few lucky ones
    end the search."""
    square_images: Count = 100
    """Try the Square Attack on the first so many images only."""
    select_draws: Count = 20
    """Single draws of the defense on which candidates are compared."""
    select_predictions: Count = 1
    """Whole predictions of a randomised defense on which candidates are compared as well; each
    counts like one single draw."""
    sure_margin: NonNegative | None = 0.05
    """An image is done if, on each of these draws, its true class is less probable than the
    predicted class by at least this (in probability); unset, every candidate is made for every
    image."""
    images: Count | None = 200
    """Largest number of test images to attack."""
    redraws: Count | None = 3
    """How many times the whole prediction of a randomised defense is made to measure accuracy under
    the attack; it overrides the grid's."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if len(set(self.losses)) < len(self.losses):
            raise ValueError(f"losses {list(self.losses)} has one twice")
        return self

    @field_validator("transferred", mode="before")
    @classmethod
    def _by_their_kinds(cls, value: Any, info: ValidationInfo) -> Any:
        """Make attacks of mappings with a `kind`, as a config file has them."""
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
        """Return the spec with the problem's epsilon, also in the attacks of `transferred`.

        Those have this attack's norm and epsilon unless they state their own. Target classes are
        limited to the wrong classes that there are, and left out below four classes, where DLR is
        undefined.

        Raises:
            ValueError: If a transferred attack has another norm, or a larger epsilon than this
                attack.
        """
        filled = super().resolved(problem)
        assert filled.epsilon is not None
        inner = replace(problem, epsilon=filled.epsilon)
        transferred = tuple(_inside(filled, attack).resolved(inner) for attack in self.transferred)
        # the targeted DLR loss needs four classes
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
        """See `CompoundAttack.choice`; a deterministic model's margin need only exceed rounding."""
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
            found[name] = Try(
                name,
                square,
                self.square_draws,
                images=self.square_images,
                window=self.square_window,
            )
        return tuple(found.values())

    def first_tries(self, defense: Defense) -> int:
        """See `CompoundAttack.first_tries`: the candidates of the first set of APGD runs."""
        return sum(1 for _ in self._climbs(self._sets()[0], defense))

    def longest(self) -> tuple[int, int]:
        """See `CompoundAttack.longest`."""
        return self.steps, self.draws

    def _sets(self) -> tuple[Climbs, ...]:
        own = Climbs(**{key: getattr(self, key) for key in Climbs.model_fields})
        return (*self.cheaper, own)

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
    """Return a transferred attack with the norm and epsilon of `whole`, whose epsilon is set."""
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
