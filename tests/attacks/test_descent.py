import torch

from tasks.attacks.base import Victim
from tasks.attacks.search.descent import descend, loss_gradient, predicted, random_start
from tasks.attacks.search.geometry import Ball
from tasks.data.seeding import Rows

IMAGES = torch.full((2, 1, 2, 2), 0.5)
BALL = Ball("linf", 0.1)


def uphill(pixels, step):
    return torch.ones_like(pixels)


def linear(pixels, step):
    """Logits whose gradient is known by hand: class 0 likes the sum, class 1 its opposite."""
    total = pixels.flatten(1).sum(dim=1)
    return torch.stack((total, -total), dim=1)


def test_each_step_moves_by_the_step_size_until_the_ball_ends():
    for steps, expected in ((1, 0.54), (2, 0.58), (3, 0.6), (9, 0.6)):
        last = descend(uphill, IMAGES, IMAGES, ball=BALL, step_size=0.04, steps=steps)
        torch.testing.assert_close(last, torch.full_like(IMAGES, expected))


def test_iterates_are_clipped_to_the_pixel_range():
    bright = torch.full_like(IMAGES, 0.97)

    last = descend(uphill, bright, bright, ball=BALL, step_size=0.04, steps=3)

    assert torch.equal(last, torch.ones_like(IMAGES))


def test_the_first_gradient_is_taken_at_the_start_and_steps_are_numbered_from_zero():
    seen = []

    def gradient(pixels, step):
        seen.append((step, pixels.flatten()[0].item()))
        return torch.ones_like(pixels)

    descend(gradient, IMAGES, IMAGES - 0.0625, ball=BALL, step_size=0.03125, steps=2)

    assert seen == [(0, 0.4375), (1, 0.46875)]


def test_the_ball_stays_around_the_originals_not_the_start():
    last = descend(uphill, IMAGES, IMAGES - 0.1, ball=BALL, step_size=1.0, steps=1)

    torch.testing.assert_close(last, IMAGES + 0.1)


def test_the_last_iterate_is_returned_even_where_it_is_worse():
    def back_and_forth(pixels, step):
        return torch.full_like(pixels, 1.0 if step == 0 else -1.0)

    last = descend(back_and_forth, IMAGES, IMAGES, ball=BALL, step_size=0.05, steps=3)

    torch.testing.assert_close(last, IMAGES - 0.05)


def test_no_steps_give_the_start():
    start = IMAGES + 0.05

    assert torch.equal(descend(uphill, IMAGES, start, ball=BALL, step_size=0.1, steps=0), start)


def test_the_start_is_a_function_of_the_image_alone_and_inside_the_ball():
    rows = Rows(3, images=torch.tensor([7, 2]), draws=torch.zeros(2, dtype=torch.int64))

    both = random_start(IMAGES, rows, ball=BALL)

    assert BALL.contains(both, IMAGES).all()
    assert torch.equal(random_start(IMAGES[1:], rows[torch.tensor([1])], ball=BALL), both[1:])
    assert not torch.equal(both[0], both[1])


def test_the_gradient_climbs_the_labels_loss_and_descends_the_targets():
    victim = Victim(linear, classes=2)
    labels = torch.tensor([0, 1])

    untargeted = loss_gradient(victim, labels, targeted=False)(IMAGES, 0)
    targeted = loss_gradient(victim, labels, targeted=True)(IMAGES, 0)

    # Each image sums to 2. With logits (t, -t), -log p_0 has the slope -2 p_1 in t, and
    # -log p_1 the slope 2 p_0.
    first, second = torch.tensor([2.0, -2.0]).softmax(dim=0).tolist()
    expected = torch.tensor([-2 * second, 2 * first]).reshape(2, 1, 1, 1).expand_as(IMAGES)
    torch.testing.assert_close(untargeted, expected)
    torch.testing.assert_close(targeted, -expected)


def test_an_images_gradient_does_not_depend_on_how_many_others_there_are():
    victim = Victim(linear, classes=2)
    labels = torch.tensor([0, 1])

    both = loss_gradient(victim, labels, targeted=False)(IMAGES, 0)
    alone = loss_gradient(victim, labels[:1], targeted=False)(IMAGES[:1], 0)

    assert torch.equal(both[:1], alone)


def test_a_gradient_is_found_under_no_grad_and_leaves_the_pixels_alone():
    pixels = IMAGES.clone()

    with torch.no_grad():
        gradient = loss_gradient(Victim(linear, 2), torch.tensor([0, 0]), targeted=False)
        found = gradient(pixels, 0)

    assert (found != 0).all()
    assert not pixels.requires_grad
    assert not found.requires_grad


def test_the_victim_is_told_the_step():
    steps = []

    def logits(pixels, step):
        steps.append(step)
        return linear(pixels, step)

    gradient = loss_gradient(Victim(logits, 2), torch.tensor([0, 0]), targeted=False)
    descend(gradient, IMAGES, IMAGES, ball=BALL, step_size=0.01, steps=3)

    assert steps == [0, 1, 2]


def test_predicted_is_the_class_of_the_highest_logit():
    assert predicted(Victim(linear, 2), torch.cat((IMAGES, -IMAGES))).tolist() == [0, 0, 1, 1]
