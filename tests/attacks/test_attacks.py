"""Every attack of the registry, and PGD beside the libraries that the field trusts."""

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from our_kinds import our_kinds
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tasks.attacks.base import Attack, Victim
from tasks.attacks.fgsm import FGSM
from tasks.attacks.pgd import PGD
from tasks.attacks.search.descent import random_start
from tasks.data.arrays import as_float
from tasks.data.seeding import Rows
from tasks.data.splits import digits
from tasks.registry import kind_class, kinds
from tasks.specs import Problem

PROBLEM = Problem(epsilon=16.0, classes=10, side=8, pool=100)
COUNT = 16


def variants() -> list[Attack]:
    """Each attack as it is, and in each norm, targeted or not, that it knows."""
    found = []
    for kind in our_kinds("attacks"):
        attack = kind_class("attacks", kind)
        if attack.compound:
            continue  # made of the others
        steps = attack.model_fields.get("steps")
        # a long attack keeps the contract no better than a short one
        choices: list[dict[str, object]] = [{"steps": 5} if steps and steps.default > 20 else {}]
        if "targeted" in attack.model_fields:
            choices.append({"targeted": True})
        if "norm" in attack.model_fields:
            choices += [{**choice, "norm": "l2", "epsilon": 128} for choice in choices]
        found += [attack(**choice).resolved(PROBLEM) for choice in choices]
    return found


def title(attack: Attack) -> str:
    shown = attack.model_dump()
    targeted = "targeted" if shown.get("targeted") else ""
    return "-".join(filter(None, (attack.kind, str(shown.get("norm", "")), targeted)))


every_attack = pytest.mark.parametrize("attack", variants(), ids=title)
every_crafting_attack = pytest.mark.parametrize(
    "attack", [attack for attack in variants() if attack.crafts], ids=title
)
every_bounded_attack = pytest.mark.parametrize(
    "attack", [attack for attack in variants() if "epsilon" in type(attack).model_fields], ids=title
)
both_directions = pytest.mark.parametrize("targeted", [False, True], ids=["untargeted", "targeted"])


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    test = digits().test[:COUNT]
    return as_float(test.pixels), test.labels


def rows(images: Tensor | None = None, *, seed: int = 0) -> Rows:
    places = torch.arange(COUNT) if images is None else images
    return Rows(seed, images=places, draws=torch.zeros_like(places))


def victim_of(network: nn.Module) -> Victim:
    return Victim(lambda pixels, _: network(pixels), classes=10)


def one_by_one(network: nn.Module) -> Victim:
    """Each image goes through the network alone, so that no rounding depends on the batch."""
    return Victim(
        lambda pixels, _: torch.cat([network(image[None]) for image in pixels]), classes=10
    )


@every_attack
def test_examples_stay_in_the_ball_and_in_the_pixel_range(attack, network, images):
    pixels, labels = images

    crafted = attack.perturb(victim_of(network), pixels, labels, rows())

    assert crafted.shape == pixels.shape
    assert crafted.dtype == torch.float32
    assert crafted.min() >= 0
    assert crafted.max() <= 1
    assert attack.ball().contains(crafted, pixels, tolerance=1e-6).all()


@every_attack
def test_an_attack_leaves_what_it_is_given_as_it_was(attack, network, images):
    pixels, labels = images
    places = rows()
    before = pixels.clone(), labels.clone(), places.images.clone()

    attack.perturb(victim_of(network), pixels, labels, places)

    assert torch.equal(pixels, before[0])
    assert torch.equal(labels, before[1])
    assert torch.equal(places.images, before[2])
    assert not pixels.requires_grad


@every_crafting_attack
def test_an_attack_that_crafts_changes_every_image(attack, network, images):
    pixels, labels = images

    crafted = attack.perturb(victim_of(network), pixels, labels, rows())

    assert (crafted != pixels).flatten(1).any(dim=1).all()


@every_attack
def test_an_image_gets_the_same_example_alone_and_in_any_batch_or_order(attack, network, images):
    pixels, labels = images
    victim = one_by_one(network)
    whole = attack.perturb(victim, pixels, labels, rows())

    for chosen in ([4], [7, 4, 1], list(range(COUNT - 1, -1, -1))):
        index = torch.tensor(chosen)
        part = attack.perturb(victim, pixels[index], labels[index], rows(index))
        assert torch.equal(part, whole[index])


@every_attack
def test_the_same_seed_gives_the_same_examples(attack, network, images):
    first = attack.perturb(victim_of(network), *images, rows())
    second = attack.perturb(victim_of(network), *images, rows())

    assert torch.equal(first, second)


@every_bounded_attack
def test_without_a_radius_the_images_come_back_bit_for_bit(attack, network, images):
    still = attack.model_copy(update={"epsilon": 0.0})

    assert torch.equal(still.perturb(victim_of(network), *images, rows()), images[0])


@every_bounded_attack
def test_a_negative_radius_is_refused(attack):
    with pytest.raises(ValidationError, match="epsilon"):
        type(attack)(epsilon=-1.0)


@every_bounded_attack
def test_the_radius_is_the_problems_unless_it_is_given(attack):
    assert type(attack)().resolved(PROBLEM).epsilon == 16.0
    assert type(attack)(epsilon=4).resolved(PROBLEM).epsilon == 4.0


@every_crafting_attack
def test_the_loss_moves_the_way_the_attack_wants(attack, network, images):
    pixels, labels = images
    targets = attack.targets(labels, rows(), 10)
    crafted = attack.perturb(victim_of(network), pixels, labels, rows())

    if (targets >= 0).any():
        before, after = (cross_entropy(network(x), targets) for x in (pixels, crafted))
        assert after < before
    else:
        before, after = (cross_entropy(network(x), labels) for x in (pixels, crafted))
        assert after > before


@every_attack
def test_targets_are_wrong_classes_or_none(attack, images):
    labels = images[1]

    targets = attack.targets(labels, rows(), 10)

    assert targets.dtype == torch.int64
    if attack.model_dump().get("targeted"):
        assert ((targets >= 0) & (targets < 10) & (targets != labels)).all()
    else:
        assert (targets == -1).all()


@every_attack
def test_an_images_target_is_its_own_in_any_batch(attack, images):
    labels = images[1]
    index = torch.tensor([7, 4, 1])
    whole = attack.targets(labels, rows(), 10)

    assert torch.equal(attack.targets(labels[index], rows(index), 10), whole[index])


def test_targets_are_uniform_over_the_wrong_classes():
    labels = torch.full((9000,), 3)
    places = rows(torch.arange(9000))

    counts = PGD(targeted=True).targets(labels, places, 10).bincount(minlength=10)

    assert counts[3] == 0
    # Five standard deviations of a binomial of 9000 trials with probability 1/9.
    assert (counts[counts > 0] - 1000).abs().max() < 5 * (9000 * 8 / 81) ** 0.5
    assert (counts > 0).sum() == 9


def test_pgd_is_the_papers_by_default():
    attack = PGD().resolved(Problem(epsilon=8.0, classes=10, side=32, pool=10_000))

    assert attack == PGD(
        norm="linf",
        epsilon=8.0,
        step_size=2.0,
        steps=10,
        targeted=False,
        random_start=True,
        label="true",
    )


def test_a_spec_without_a_radius_says_that_it_must_be_resolved(network, images):
    for attack in (PGD(), FGSM(), PGD(epsilon=8.0)):
        with pytest.raises(ValueError, match="resolved"):
            attack.perturb(victim_of(network), *images, rows())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_begins_at_a_random_start_that_the_seed_decides(norm, network, images):
    attack = PGD(norm=norm, epsilon=64, step_size=0, steps=1)
    victim = victim_of(network)

    first = attack.perturb(victim, *images, rows())
    other = attack.perturb(victim, *images, rows(seed=1))

    assert torch.equal(first, random_start(images[0], rows(), ball=attack.ball()))
    assert (first != other).flatten(1).any(dim=1).all()


def test_pgd_without_a_random_start_begins_at_the_image(network, images):
    attack = PGD(epsilon=64, step_size=0, steps=1, random_start=False)

    assert torch.equal(attack.perturb(victim_of(network), *images, rows()), images[0])


def test_more_steps_begin_like_fewer(network, images):
    seen = {}

    def attacked(steps: int) -> None:
        seen[steps] = []
        victim = Victim(lambda pixels, _: (seen[steps].append(pixels), network(pixels))[1], 10)
        PGD(steps=steps, targeted=True).resolved(PROBLEM).perturb(victim, *images, rows())

    attacked(2)
    attacked(4)

    assert torch.equal(seen[2][0], seen[4][0])
    assert torch.equal(seen[2][1], seen[4][1])


def test_pgd_breaks_more_than_fgsm_and_both_more_than_nothing(network, images):
    victim = victim_of(network)
    wrong = [
        (network(attack.resolved(PROBLEM).perturb(victim, *images, rows())).argmax(1) != images[1])
        for attack in (PGD(epsilon=32), FGSM(epsilon=32), PGD(epsilon=0))
    ]

    pgd, fgsm, clean = (int(each.sum()) for each in wrong)
    assert pgd >= fgsm > clean


def test_fgsm_is_one_pgd_step_of_the_whole_radius_from_the_image(network, images):
    one_step = PGD(epsilon=16, step_size=16, steps=1, random_start=False)
    victim = victim_of(network)

    fgsm = FGSM(epsilon=16).perturb(victim, *images, rows())

    assert torch.equal(fgsm, one_step.perturb(victim, *images, rows()))


def test_the_predicted_label_leads_away_from_what_the_model_says(network, images):
    pixels, labels = images
    victim = victim_of(network)
    predicted = network(pixels).argmax(dim=1)
    wrong_labels = (labels + 1) % 10

    by_model = PGD(label="predicted").resolved(PROBLEM)
    by_label = PGD().resolved(PROBLEM)

    crafted = by_model.perturb(victim, pixels, wrong_labels, rows())
    assert torch.equal(crafted, by_label.perturb(victim, pixels, predicted, rows()))
    assert not torch.equal(crafted, by_label.perturb(victim, pixels, wrong_labels, rows()))


def test_a_targeted_attack_has_no_label_to_lead_away_from():
    with pytest.raises(ValidationError, match="untargeted"):
        PGD(targeted=True, label="predicted")


def agreement(ours: Tensor, theirs: Tensor) -> float:
    """The share of pixels that differ by at most 1e-6."""
    return float(((ours - theirs).abs() <= 1e-6).float().mean())


@both_directions
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 16.0), ("l2", 128.0)])
def test_pgd_agrees_with_foolbox(norm, epsilon, targeted, network, images):
    with warnings.catch_warnings():
        # Foolbox imports from places that scipy has deprecated.
        warnings.simplefilter("ignore")
        import foolbox

    pixels, labels = images
    attack = PGD(norm=norm, epsilon=epsilon, targeted=targeted).resolved(PROBLEM)
    start = random_start(pixels, rows(), ball=attack.ball())
    base = foolbox.attacks.LinfPGD if norm == "linf" else foolbox.attacks.L2PGD

    class FromOurStart(base):
        def get_random_start(self, x0, *_):
            return type(x0)(start)

    theirs = FromOurStart(abs_stepsize=attack.step_size / 255, steps=10, random_start=True)
    criterion = (
        foolbox.criteria.TargetedMisclassification(attack.targets(labels, rows(), 10))
        if targeted
        else foolbox.criteria.Misclassification(labels)
    )
    model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")

    reference = theirs.run(model, pixels, criterion, epsilon=attack.epsilon / 255)
    ours = attack.perturb(victim_of(network), pixels, labels, rows())

    assert agreement(ours, reference) > 0.999
    assert agreement(ours, start) < 0.7


@both_directions
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 16.0), ("l2", 63.0)])
def test_pgd_agrees_with_the_adversarial_robustness_toolbox(
    norm, epsilon, targeted, network, images
):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from art.attacks.evasion.projected_gradient_descent import (
            projected_gradient_descent_pytorch as art,
        )
        from art.estimators.classification import PyTorchClassifier

    pixels, labels = images
    if norm == "l2":
        # The toolbox clips to the pixel range before it projects, we after: the same in linf
        # only. In l2 the two agree where no pixel can reach the end of the range.
        pixels = 0.25 + 0.5 * pixels
    attack = PGD(norm=norm, epsilon=epsilon, targeted=targeted).resolved(PROBLEM)
    aims = attack.targets(labels, rows(), 10) if targeted else labels
    classifier = PyTorchClassifier(
        network,
        # Summed as ours: of a mean, tiny gradients would be rounded differently.
        loss=nn.CrossEntropyLoss(reduction="sum"),
        input_shape=(1, 8, 8),
        nb_classes=10,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    theirs = art.ProjectedGradientDescentPyTorch(
        classifier,
        norm=np.inf if norm == "linf" else 2,
        eps=attack.epsilon / 255,
        eps_step=attack.step_size / 255,
        max_iter=10,
        targeted=targeted,
        verbose=False,
    )

    start = random_start(pixels, rows(), ball=attack.ball())
    reference = start
    one_hot = nn.functional.one_hot(aims, 10).float()
    for _ in range(10):
        # One iteration of the toolbox's own loop, which has no argument for the start.
        reference = theirs._compute_pytorch(
            reference,
            pixels,
            one_hot,
            None,
            theirs.eps,
            theirs.eps_step,
            random_init=False,
            momentum=torch.zeros_like(pixels),
        )
    ours = attack.perturb(victim_of(network), pixels, labels, rows())

    assert agreement(ours, reference.detach()) > 0.999
    assert agreement(ours, start) < 0.7


def test_no_spec_module_imports_torch():
    modules = ["tasks.specs", "tasks.registry", "tasks.training.recipe", "tasks.data.spec"]
    modules += ["tasks.evaluation.specs"]
    for family in ("attacks", "defenses", "networks"):
        names = [kind.replace("-", "_") for kind in kinds(family)]
        modules += [f"tasks.{family}.{name}" for name in ("base", *names)]
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    if 'torch' in sys.modules:\n"
        "        sys.exit(f'{name} imports torch')\n"
    )

    finished = subprocess.run(
        [sys.executable, "-c", program, *modules],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )

    assert finished.returncode == 0, finished.stderr
