"""Canaries: defenses that are known to be broken, which the adaptive attack must break.

What each is worth is known: APGD on the bare network, or on the network that has the defense's
fixed part built in. The adaptive attack must leave no more than that, give or take two points.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from broken_defenses import (
    FixedNoise,
    Rounding,
    TowardsItsOwnClass,
    ZeroGradient,
)
from PIL import Image
from shared_files import RESNET20, ROBUST_RESNET20, TEST_IMAGES
from torch import Tensor, nn

from tasks.attacks.adaptive import Adaptive
from tasks.attacks.apgd import APGD
from tasks.attacks.base import Attack, Try
from tasks.attacks.pgd import PGD
from tasks.classifier.checkpoint import load_weights, weights_from_bytes
from tasks.classifier.frozen import Frozen
from tasks.data.arrays import Crafted, Images
from tasks.data.splits import digits
from tasks.defenses.base import Context, Defense
from tasks.defenses.gaussian import Gaussian
from tasks.defenses.hedge import Hedge
from tasks.defenses.none import NoDefense
from tasks.evaluation.craft import craft
from tasks.evaluation.defend import defend
from tasks.evaluation.score import share_right
from tasks.evaluation.select import Chosen, select
from tasks.evaluation.specs import CraftSpec, DefendSpec, SelectSpec
from tasks.networks.resnet20 import ResNet20
from tasks.progress import silent
from tasks.specs import Problem, Shard

DRAWS = 3
POINTS = 2.0

CANARIES = {
    "none": NoDefense(),
    "zero-gradient": ZeroGradient(),
    "fixed-noise": FixedNoise(deviation=0.05),
    "rounding": Rounding(),
    "tiny-noise": Gaussian(draws=DRAWS, standard_deviation_255ths=0.5),
}
every_canary = pytest.mark.parametrize("name", CANARIES)


class Noisy(nn.Module):
    """A network with the noise of `FixedNoise` built in."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        defense = CANARIES["fixed-noise"]
        return self.network(defense.transform(pixels, None, None))


class Ladder:
    """The stages of a budget on some images, made as the nodes of a graph make them."""

    def __init__(self, network: nn.Module, images: Images, attack: Adaptive) -> None:
        self.context = Context(Frozen(network, classes=10))
        self.images = images
        self.shard = Shard(start=0, stop=len(images))
        problem = Problem(epsilon=attack.epsilon, classes=10, side=8, pool=1)
        self.attack = attack.resolved(problem)

    def craft(
        self, attack: Attack, images: Images, start: Crafted | None = None, **known: object
    ) -> Crafted:
        spec = CraftSpec(attack=attack, shard=self.shard, seed=0, precision="float32", **known)
        return craft(images, self.context, spec, batch_size=10_000, start=start)

    def tried(self, attempt: Try, defense: Defense, transferred: Chosen, chosen: Chosen) -> Crafted:
        """A candidate of the images that still stand."""
        standing = self.images[chosen.standing]
        starts = {"own": None, "transferred": transferred, "best": chosen}
        begin = starts[attempt.start]
        return self.craft(
            attempt.attack,
            standing,
            None if begin is None else begin.crafted[chosen.standing],
            against=defense,
            draws=attempt.draws,
            smoothing=attempt.smoothing,
            rule=attempt.rule,
            inner_steps=attempt.inner_steps,
        )

    @cached_property
    def transferred(self) -> dict[str, Crafted]:
        """What is made on the bare network, whatever stands before it."""
        attacks = self.attack.transfers().items()
        return {name: self.craft(attack, self.images) for name, attack in attacks}

    def left_bare(self, network: nn.Module) -> float:
        """The accuracy, in %, that a long APGD leaves of a bare network."""
        spec = APGD(epsilon=self.attack.epsilon, loss="margin", steps=60, random_start=False)
        other = replace(self.context, classifier=Frozen(network, classes=10))
        ladder = Ladder(network, self.images, self.attack)
        return accuracy(ladder.craft(spec, self.images), NoDefense(), other)

    def left(self, defense: Defense) -> float:
        """The accuracy, in %, that the adaptive attack leaves of a defense."""
        stage0 = chosen = self.select(self.transferred, defense)
        for attempt in self.attack.tries(defense):
            candidate = {attempt.name: self.tried(attempt, defense, stage0, chosen)}
            chosen = self.select(candidate, defense, chosen)
        return accuracy(chosen.crafted, defense, self.context)

    def left_directly(self, defense: Defense) -> float:
        """What the climb from the image leaves, its gradient passed straight through."""
        climb = self.attack.tries(defense)[0]
        made = self.craft(climb.attack, self.images, against=defense, draws=climb.draws)
        return accuracy(made, defense, self.context)

    def select(
        self, candidates: dict[str, Crafted], defense: Defense, before: Chosen | None = None
    ) -> Chosen:
        choice = self.attack.choice(deterministic=defense.deterministic(10))
        spec = SelectSpec(against=defense, shard=self.shard, seed=0, draws=5, margin=choice.margin)
        return select(candidates, self.images, self.context, spec, batch_size=10_000, before=before)


def accuracy(crafted: Crafted, defense: Defense, context: Context) -> float:
    shard = Shard(start=0, stop=len(crafted))
    redraws = 1 if defense.deterministic(10) else 3
    spec = DefendSpec(defense=defense, shard=shard, seed=9, redraws=redraws)
    outcomes = defend(crafted, context, spec, batch_size=10_000, tell=silent)
    return 100 * float(share_right(outcomes).mean())


def budget(epsilon: float) -> Adaptive:
    return Adaptive(
        epsilon=epsilon,
        transferred=(PGD(steps=20), APGD(steps=40, loss="margin", random_start=False)),
        steps=20,
        draws=DRAWS,
    )


@pytest.mark.parametrize("epsilon", [16.0, 64.0])
@every_canary
def test_a_broken_defense_falls_to_its_known_robustness(name, epsilon, network):
    ladder = Ladder(network, digits().test[:150], budget(epsilon))
    known = ladder.left_bare(Noisy(network) if name == "fixed-noise" else network)
    # at the smaller epsilon something is left, so that falling to it is no accident
    assert known > 20 if epsilon == 16.0 else known <= POINTS
    assert abs(ladder.left(CANARIES[name]) - known) <= POINTS


def test_without_transferred_examples_a_zero_gradient_would_pass_for_a_defense(network):
    images = digits().test[:150]
    blind = Adaptive(epsilon=64.0, transferred=(PGD(steps=1, epsilon=0.0, step_size=0.0),), steps=5)
    assert Ladder(network, images, blind).left(ZeroGradient()) > 80
    queries = blind.model_copy(update={"square_queries": 200, "square_draws": 1})
    assert Ladder(network, images, queries).left(ZeroGradient()) < 20


@pytest.fixture(scope="module")
def resnet(shared: Callable[[str], Path]) -> nn.Module:
    weights = shared(RESNET20)
    module = ResNet20().build(3, 32, 10)
    load_weights(module, weights_from_bytes(weights.read_bytes(), "module."))
    return module


@pytest.fixture(scope="module")
def robust(shared: Callable[[str], Path]) -> nn.Module:
    module = ResNet20(mean=(0.5,), std=(0.25,)).build(3, 32, 10)
    load_weights(module, weights_from_bytes(shared(ROBUST_RESNET20).read_bytes()))
    return module


def cifar10_images(shared: Callable[[str], Path], count: int) -> Images:
    """The first test images."""
    table = pq.read_table(shared(TEST_IMAGES)).slice(0, count).to_pylist()
    pictures = [np.asarray(Image.open(io.BytesIO(row["img"]["bytes"]))) for row in table]
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor([row["label"] for row in table])
    return Images(pixels, labels, torch.arange(len(labels)), 10)


@pytest.fixture(scope="module")
def photographs(shared: Callable[[str], Path]) -> Images:
    return cifar10_images(shared, 40)


@pytest.mark.slow
@every_canary
def test_a_broken_defense_of_a_public_resnet_falls_to_nothing_too(name, resnet, photographs):
    short = Adaptive(
        epsilon=8.0,
        transferred=(APGD(steps=10, loss="margin", random_start=False),),
        steps=10,
        draws=DRAWS,
    )
    assert Ladder(resnet, photographs, short).left(CANARIES[name]) <= POINTS


@pytest.mark.slow
def test_an_optimiser_that_hides_the_gradient_adds_nothing_to_a_robust_network(robust, shared):
    """Attacked from the image, straight through, it would seem to add points."""
    transferred = (APGD(steps=20, loss="margin", random_start=False),)
    attack = Adaptive(epsilon=8.0, transferred=transferred, steps=10)
    ladder = Ladder(robust, cifar10_images(shared, 50), attack)
    bare = ladder.left(NoDefense())
    defense = TowardsItsOwnClass()
    assert 20 < bare < 50
    assert ladder.left(defense) <= bare + POINTS
    assert ladder.left_directly(defense) > bare + 10


@pytest.fixture(scope="module")
def hundred(robust: nn.Module, shared: Callable[[str], Path]) -> Ladder:
    transferred = (PGD(steps=20), APGD(steps=20, loss="margin", random_start=False))
    attack = Adaptive(epsilon=8.0, transferred=transferred, steps=10)
    return Ladder(robust, cifar10_images(shared, 100), attack)


LEFT_OF_HEDGE = 40.0
"""The least that any search has left of 100 images, of which 34 stand on the bare network.

It is no canary: 8 images are saved and 2 lost. Of the 8 nearest to falling, climbs of 20 steps
from three random points ended within 0.12 of each other in the margin of logits; the gradient
through all 20 steps inside, with a smoothed sign, had a cosine of 0.91 to 1 with the
straight-through one; of 5 of them, 100 further steps and 80 random squares broke none.
"""


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_of_an_optimiser_up_the_losses_of_all_classes_the_ladder_leaves_what_any_search_does(
    hundred: Ladder,
) -> None:
    assert abs(hundred.left(NoDefense()) - 34) <= POINTS
    assert hundred.left(Hedge()) <= LEFT_OF_HEDGE + POINTS


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_of_the_same_optimiser_a_climb_straight_from_the_image_leaves_more(hundred: Ladder) -> None:
    assert hundred.left_directly(Hedge()) > LEFT_OF_HEDGE + POINTS
