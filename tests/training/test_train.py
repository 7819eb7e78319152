import json
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from tasks.classifier.checkpoint import load_weights
from tasks.classifier.frozen import Frozen
from tasks.data.arrays import BadTensor, Images
from tasks.data.seeding import Rows
from tasks.data.splits import digits
from tasks.networks.base import Network
from tasks.networks.small import Small
from tasks.specs import Problem
from tasks.training import augment
from tasks.training.augment import adversarial, beta, crop_and_flip, mixup, training_batch
from tasks.training.recipe import InnerAttack, Recipe, TrainSpec
from tasks.training.train import Diverged, State, learning_rate, train

PROBLEM = Problem(epsilon=8, classes=10, side=8, pool=1197)
DIGITS = {"flip": False, "crop_padding_px": 1}
SMALL = Small(width=4)


@pytest.fixture(scope="module")
def images() -> Images:
    return digits().train[:200]


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Drawing(Small):
    """A network that draws at random, as dropout does, and in eval mode too."""

    kind: str = "drawing"

    def module(self, channels: int, side: int, classes: int) -> nn.Module:
        module = super().module(channels, side, classes)
        module.register_forward_hook(lambda _, __, logits: F.dropout(logits, 0.5))
        return module


def spec_of(seed: int = 0, network: Network = SMALL, **recipe) -> TrainSpec:
    return TrainSpec(network=network, recipe=Recipe(**recipe), seed=seed).resolved(PROBLEM)


def rows_of(count: int, epoch: int = 0, seed: int = 0) -> Rows:
    return Rows(seed, torch.arange(count), torch.full((count,), epoch))


def last(states) -> State:
    *_, state = states
    return state


def same(first: State, second: State) -> bool:
    pairs = ((first.weights, second.weights), (first.optimizer, second.optimizer))
    return all(
        one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
        for one, two in pairs
    )


# Recipes


def test_recipes_default_to_the_papers_training():
    recipe = Recipe()
    assert (recipe.method, recipe.epochs, recipe.batch_size) == ("mixup", 200, 64)
    assert (recipe.momentum, recipe.weight_decay, recipe.nesterov) == (0.9, 0.0, False)
    assert (recipe.milestones, recipe.decay, recipe.mixup_alpha) == ((100, 150), 0.1, 1.0)
    assert (recipe.crop_padding_px, recipe.flip, recipe.precision) == (4, True, "float32")
    assert recipe.resolved(PROBLEM).learning_rate == 0.01
    iat = Recipe(method="iat").resolved(PROBLEM)
    assert iat.learning_rate == 0.1
    assert iat.inner == InnerAttack(epsilon=8, step_size=2, steps=10, label="true")


def test_a_mixup_recipe_does_not_depend_on_the_attacks_epsilon():
    other = replace(PROBLEM, epsilon=4)
    assert Recipe().resolved(PROBLEM) == Recipe().resolved(other)
    assert Recipe(method="iat").resolved(other).inner == InnerAttack(epsilon=4, step_size=1)


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(ValidationError, match="the method mixup has no inner attack"):
        Recipe(inner=InnerAttack())
    with pytest.raises(ValidationError, match="nesterov"):
        Recipe(nesterov=True, momentum=0.0)
    with pytest.raises(ValueError, match="resolve the recipe first"):
        learning_rate(Recipe(), 0.0)


def test_a_train_spec_dumps_its_network_whole():
    dump = TrainSpec(network=Small(width=7), recipe=Recipe()).model_dump(mode="json")
    assert dump["network"]["width"] == 7
    assert json.loads(json.dumps(dump)) == dump


def test_the_rate_falls_by_ten_at_epochs_100_and_150():
    recipe = Recipe(learning_rate=0.1)
    rates = [learning_rate(recipe, epoch) for epoch in (0.0, 99.9, 100.0, 149.9, 150.0, 199.9)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_one_cycle_rises_for_a_quarter_and_falls_to_nothing():
    recipe = Recipe(learning_rate=0.1, schedule="one-cycle", epochs=8)
    rates = [learning_rate(recipe, epoch) for epoch in (0.0, 1.0, 2.0, 5.0, 8.0)]
    assert rates == pytest.approx([0.004, 0.052, 0.1, 0.05, 0.0])


# Batches


def test_every_crop_and_both_mirror_images_occur_and_nothing_else():
    side, padding, count = 4, 1, 400
    image = torch.arange(1, 17, dtype=torch.uint8).reshape(1, 1, side, side)
    padded = F.pad(image, (padding,) * 4)
    possible = {}
    for down in range(2 * padding + 1):
        for across in range(2 * padding + 1):
            window = padded[0, 0, down : down + side, across : across + side]
            possible[window.numpy().tobytes()] = (down, across, False)
            possible[window.flip(1).numpy().tobytes()] = (down, across, True)
    pixels = image.expand(count, 1, side, side)
    cropped = crop_and_flip(pixels, rows_of(count), padding_px=padding, flip=True)
    seen = {possible[one.contiguous().numpy().tobytes()] for one in cropped}
    assert cropped.dtype == torch.uint8
    assert seen == set(possible.values())
    unflipped = crop_and_flip(pixels, rows_of(count), padding_px=padding, flip=False)
    assert {possible[one.contiguous().numpy().tobytes()][2] for one in unflipped} == {False}


def test_a_crop_belongs_to_the_image_and_the_epoch_not_to_the_batch():
    pixels = torch.rand(8, 3, 8, 8)
    some = torch.tensor([6, 1])
    whole = crop_and_flip(pixels, rows_of(8), padding_px=4, flip=True)
    part = crop_and_flip(pixels[some], rows_of(8)[some], padding_px=4, flip=True)
    assert torch.equal(whole[some], part)
    later = crop_and_flip(pixels, rows_of(8, epoch=1), padding_px=4, flip=True)
    assert not torch.equal(whole, later)


def test_mixup_gives_images_and_labels_the_same_weights():
    # Each image is its own label's one-hot vector, so mixed image and mixed label coincide.
    labels = torch.arange(50) % 10
    pixels = F.one_hot(labels, 10).float().reshape(50, 10, 1, 1)
    mixed, targets = mixup(pixels, labels, rows_of(50), classes=10, alpha=1.0)
    torch.testing.assert_close(mixed.flatten(1), targets)
    torch.testing.assert_close(targets.sum(1), torch.ones(50))


def test_mixup_takes_each_image_once_as_first_and_once_as_second():
    count = 40
    pixels = torch.eye(count).reshape(count, count, 1, 1)
    mixed, _ = mixup(pixels, torch.zeros(count).long(), rows_of(count), classes=2, alpha=1.0)
    parts = [row.nonzero().flatten() for row in mixed.flatten(1)]
    assert torch.bincount(torch.cat(parts), minlength=count).max() <= 2
    pairs = [part for part in parts if len(part) == 2]
    assert len(pairs) > count // 2
    weights = torch.stack([mixed[row, part[0], 0, 0] for row, part in enumerate(parts)])
    assert len(weights.unique()) > count // 2


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_mixing_weights_have_the_moments_of_their_beta_distribution(alpha):
    weights = beta(rows_of(20_000), alpha).double()
    assert weights.shape == (20_000, 1)
    assert ((weights >= 0) & (weights <= 1)).all()
    assert weights.mean().item() == pytest.approx(0.5, abs=0.01)
    assert weights.var().item() == pytest.approx(0.25 / (2 * alpha + 1), rel=0.05)


def test_an_iat_batch_is_a_clean_and_an_adversarial_half_each_mixed_on_its_own(images, monkeypatch):
    batch = images[:32]
    recipe = Recipe(method="iat", **DIGITS).resolved(PROBLEM)
    network = Small(width=2).build(1, 8, 10)
    halves = []

    def noted(pixels, labels, rows, *, classes, alpha):
        mixed = mixup(pixels, labels, rows, classes=classes, alpha=alpha)
        halves.append((pixels, labels, *mixed))
        return mixed

    monkeypatch.setattr(augment, "mixup", noted)
    pixels, targets = training_batch(network, batch, rows_of(32), recipe)
    clean, attacked = halves
    distance = (clean[0] - attacked[0]).abs()
    assert 0 < distance.max() <= 8 / 255 + 1e-6
    assert torch.equal(clean[1], attacked[1])
    assert torch.equal(pixels, torch.cat((clean[2], attacked[2])))
    assert torch.equal(targets, torch.cat((clean[3], attacked[3])))
    assert not torch.equal(clean[3], attacked[3])


class Watched(nn.Module):
    """Remembers the mode of each forward pass; logits are sums over parts of the image."""

    modes: ClassVar[list[bool]] = []  # of the class, so that copies tell here too

    def forward(self, pixels):
        self.modes.append(self.training)
        return pixels.mean(dim=(1, 2))[:, :2] * torch.tensor([1.0, 2.0])


def test_the_inner_attack_asks_the_network_in_eval_mode_and_leaves_it_in_train_mode():
    network = Watched().train()
    Watched.modes.clear()
    recipe = Recipe(method="iat").resolved(PROBLEM)
    pixels = torch.full((3, 1, 4, 4), 0.5)
    result = adversarial(network, pixels, torch.zeros(3).long(), rows_of(3), recipe)
    assert Watched.modes == [False] * 11  # the first finds what can be folded
    assert network.training
    # Ten steps of 2/255 from anywhere in the ball end in the corner that hurts class 0.
    corner = torch.tensor([-8.0, 8.0, 0.0, 0.0]) / 255
    torch.testing.assert_close((result - pixels)[..., :2], corner[:2].expand(3, 1, 4, 2))
    assert (result - pixels)[..., 2:].abs().gt(0).all()


def test_the_inner_attack_may_climb_from_the_predicted_label():
    pixels = torch.full((3, 1, 4, 4), 0.5)
    labels = torch.zeros(3).long()
    inner = InnerAttack(label="predicted")
    recipe = Recipe(method="iat", inner=inner).resolved(PROBLEM)
    result = adversarial(Watched(), pixels, labels, rows_of(3), recipe)
    # The network answers class 1 everywhere, so class 1 is what is attacked.
    corner = torch.tensor([8.0, -8.0]) / 255
    torch.testing.assert_close((result - pixels)[..., :2], corner.expand(3, 1, 4, 2))


# Training


@pytest.mark.parametrize("network", [SMALL, Drawing(width=4)])
@pytest.mark.parametrize("method", ["mixup", "iat"])
def test_a_run_resumed_after_any_epoch_ends_bit_equal_to_an_undisturbed_one(
    images, method, network
):
    spec = spec_of(network=network, method=method, epochs=3, learning_rate=0.05, **DIGITS)
    states = list(train(images, spec))
    torch.manual_seed(12345)
    before = torch.random.get_rng_state()
    for state in states[:-1]:
        stored = State(
            {name: tensor.clone() for name, tensor in state.weights.items()},
            {name: tensor.clone() for name, tensor in state.optimizer.items()},
            json.loads(json.dumps(state.facts)),
        )
        assert same(last(train(images, spec, state=stored)), states[-1])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert list(train(images, spec, state=states[-1])) == []


def test_states_do_not_change_while_training_goes_on(images):
    states = train(images, spec_of(epochs=2, learning_rate=0.05))
    first = next(states)
    weights = {name: tensor.clone() for name, tensor in first.weights.items()}
    second = next(states)
    assert all(torch.equal(weights[name], first.weights[name]) for name in weights)
    assert not same(first, second)
    assert (len(first.facts["history"]), len(second.facts["history"])) == (1, 2)


def test_states_hold_plain_contiguous_tensors_and_facts_for_json(images):
    state = last(train(images, spec_of(epochs=1)))
    tensors = [*state.weights.values(), *state.optimizer.values()]
    assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in tensors)
    trained = {name for name in state.weights if name.endswith(("weight", "bias"))}
    assert state.optimizer.keys() == trained
    (facts,) = json.loads(json.dumps(state.facts))["history"]
    assert facts.keys() == {*("loss", "accuracy", "learning_rate", "seconds", "images_per_second")}
    assert state.facts["epoch"] == 1


def test_the_seed_decides_the_weights(images):
    runs = [last(train(images, spec_of(seed=seed, epochs=1))) for seed in (0, 0, 1)]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_the_label_attacked_inside_iat_changes_the_training(images):
    recipes = (InnerAttack(epsilon=32, label=label) for label in ("true", "predicted"))
    true, predicted = (
        last(train(images[:64], spec_of(method="iat", inner=inner, epochs=1))) for inner in recipes
    )
    assert not same(true, predicted)


def test_progress_counts_images_up_to_the_total(images):
    told = []
    spec = spec_of(epochs=2, batch_size=64)
    last(train(images, spec, tell=told.append))
    done = [progress.done for progress in told]
    assert done == sorted(set(done))
    # 200 images make three full batches of 64; the last 8 images are left out.
    assert done[-1] == told[-1].total == 2 * 3 * 64
    assert told[0].note == "epoch 1/2"
    assert told[-1].note.startswith("epoch 2/2, loss ")


def test_fewer_images_than_a_batch_make_one_smaller_batch(images):
    state = last(train(images[:10], spec_of(epochs=1, batch_size=64)))
    assert state.facts["history"][0]["loss"] > 0


def test_no_images_are_refused(images):
    with pytest.raises(BadTensor, match="needs images"):
        next(train(images[:0], spec_of(epochs=1)))


def test_a_diverging_training_says_so(images):
    spec = spec_of(epochs=1)
    # a config may not ask for so much
    recipe = spec.recipe.model_copy(update={"learning_rate": 1e30})
    with pytest.raises(Diverged, match="epoch 1, at learning rate 1e"):
        list(train(images, spec.model_copy(update={"recipe": recipe})))


def test_weights_that_are_infinite_after_a_finite_loss_are_a_divergence(images):
    recipe = spec_of(epochs=1, weight_decay=10).recipe
    recipe = recipe.model_copy(update={"learning_rate": 3e38})
    # one step, whose loss is that of the initial weights
    with pytest.raises(Diverged, match="epoch 1, at learning rate 3e"):
        list(train(images[:10], TrainSpec(network=SMALL, recipe=recipe)))


def test_bfloat16_trains_float32_weights_and_changes_them_a_little(images):
    full, narrow = (
        last(train(images, spec_of(epochs=1, precision=precision)))
        for precision in ("float32", "bfloat16")
    )
    assert narrow.weights["linear.weight"].dtype == torch.float32
    difference = (full.weights["linear.weight"] - narrow.weights["linear.weight"]).abs().max()
    assert 0 < difference < 0.1


@pytest.fixture(scope="module")
def trained() -> dict[str, tuple[nn.Module, State]]:
    networks = {}
    for method, inner in (("mixup", None), ("iat", InnerAttack(epsilon=40, steps=3, step_size=20))):
        recipe = Recipe(
            method=method,
            epochs=6,
            learning_rate=0.1,
            schedule="one-cycle",
            flip=False,
            crop_padding_px=0,
            inner=inner,
        )
        spec = TrainSpec(network=Small(width=8), recipe=recipe).resolved(PROBLEM)
        state = last(train(digits().train, spec))
        module = spec.network.build(1, 8, 10)
        load_weights(module, state.weights)
        networks[method] = (module.eval(), state)
    return networks


def accuracy(module: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> float:
    predicted = Frozen(module, classes=10).probabilities(pixels).argmax(1)
    return (predicted == labels).double().mean().item()


@pytest.mark.parametrize("method", ["mixup", "iat"])
def test_training_learns_digits(method, trained):
    module, state = trained[method]
    test = digits().test
    assert accuracy(module, test.pixels / 255, test.labels) > 0.9
    losses = [facts["loss"] for facts in state.facts["history"]]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.slow
def test_iat_withstands_the_attack_it_was_trained_on_better_than_mixup(trained):
    test = digits().test
    recipe = Recipe(method="iat", inner=InnerAttack(epsilon=40)).resolved(PROBLEM)
    left = {}
    for method, (module, _) in trained.items():
        rows = rows_of(len(test), seed=9)
        pixels = adversarial(module, test.pixels / 255, test.labels, rows, recipe)
        left[method] = accuracy(module, pixels, test.labels)
    assert left["iat"] > left["mixup"] + 0.1
