import math

import pytest
import torch
from torch import Tensor

from tasks.attacks.search.geometry import Ball
from tasks.data.seeding import Rows

NORMS = ("linf", "l2")


def size(change: Tensor, norm: str) -> Tensor:
    order = math.inf if norm == "linf" else 2
    return torch.linalg.vector_norm(change.double().flatten(1), ord=order, dim=1)


def rows(count: int, seed: int = 0) -> Rows:
    return Rows(seed, images=torch.arange(count), draws=torch.zeros(count, dtype=torch.int64))


def random_images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))


def random_changes(count: int) -> Tensor:
    return torch.randn(count, 3, 5, 5, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("norm", NORMS)
def test_a_projection_is_in_the_ball_and_in_the_pixel_range(norm):
    ball, originals = Ball(norm, 0.1), random_images(20)

    projected = ball.project(originals + random_changes(20), originals)

    assert projected.min() >= 0
    assert projected.max() <= 1
    assert (size(projected - originals, norm) <= 0.1 + 1e-6).all()


@pytest.mark.parametrize("norm", NORMS)
def test_a_projection_leaves_what_is_inside_where_it_is(norm):
    ball, originals = Ball(norm, 0.1), 0.25 + 0.5 * random_images(20)
    inside = originals + 0.1 * random_changes(20).clamp(-1, 1) / math.sqrt(75)

    torch.testing.assert_close(ball.project(inside, originals), inside, rtol=0, atol=1e-7)


def test_an_l2_projection_keeps_the_direction_and_ends_on_the_surface():
    originals, change = torch.full((20, 3, 5, 5), 0.5), random_changes(20)

    moved = Ball("l2", 0.1).project(originals + change, originals) - originals

    torch.testing.assert_close(size(moved, "l2"), torch.full((20,), 0.1, dtype=torch.float64))
    cosine = torch.nn.functional.cosine_similarity(moved.flatten(1), change.flatten(1))
    torch.testing.assert_close(cosine, torch.ones(20))


def test_an_linf_projection_clips_each_pixel_on_its_own():
    originals = torch.full((1, 1, 1, 3), 0.5)

    projected = Ball("linf", 0.1).project(torch.tensor([[[[0.0, 0.55, 0.9]]]]), originals)

    torch.testing.assert_close(projected, torch.tensor([[[[0.4, 0.55, 0.6]]]]))


@pytest.mark.parametrize("norm", NORMS)
def test_a_ball_of_radius_zero_gives_the_originals_bit_for_bit(norm):
    ball, originals = Ball(norm, 0.0), random_images(20)

    assert torch.equal(ball.project(originals + random_changes(20), originals), originals)
    assert torch.equal(ball.uniform(originals, rows(20)), originals)


def test_the_steepest_step_is_the_sign_in_linf():
    gradient = torch.tensor([[[[-3.0, 0.0, 1e-30]]]])

    assert torch.equal(Ball("linf", 1.0).steepest(gradient), torch.tensor([[[[-1.0, 0.0, 1.0]]]]))


def test_the_steepest_step_is_the_gradient_at_length_one_in_l2():
    gradient = torch.tensor([[[[3.0, -4.0]]], [[[0.0, 0.5]]]])

    expected = torch.tensor([[[[0.6, -0.8]]], [[[0.0, 1.0]]]])
    torch.testing.assert_close(Ball("l2", 1.0).steepest(gradient), expected)


def test_gradients_whose_squares_underflow_still_give_a_full_l2_step():
    gradient = torch.tensor([[[[3e-30, -4e-30]]]])

    step = Ball("l2", 1.0).steepest(gradient)

    torch.testing.assert_close(step, torch.tensor([[[[0.6, -0.8]]]]))


@pytest.mark.parametrize("norm", NORMS)
def test_a_zero_gradient_gives_no_step_and_disturbs_no_other_image(norm):
    gradient = random_changes(2)
    alone = Ball(norm, 1.0).steepest(gradient[1:])
    gradient[0] = 0

    step = Ball(norm, 1.0).steepest(gradient)

    assert torch.equal(step[0], torch.zeros(3, 5, 5))
    assert torch.equal(step[1:], alone)


@pytest.mark.parametrize("norm", NORMS)
def test_random_points_are_in_the_ball_and_in_the_pixel_range(norm):
    ball, originals = Ball(norm, 0.3), random_images(50)

    points = ball.uniform(originals, rows(50))

    assert points.min() >= 0
    assert points.max() <= 1
    assert ball.contains(points, originals).all()


@pytest.mark.parametrize("norm", NORMS)
def test_random_points_depend_on_the_image_and_the_seed_alone(norm):
    ball, originals = Ball(norm, 0.3), random_images(8)
    order = torch.tensor([5, 0, 7])
    points = ball.uniform(originals, rows(8))

    assert torch.equal(ball.uniform(originals[order], rows(8)[order]), points[order])
    assert torch.equal(ball.uniform(originals, rows(8)), points)
    changed = (ball.uniform(originals, rows(8, seed=1)) != points).flatten(1).any(dim=1)
    assert changed.all()


def test_random_points_are_uniform_in_the_linf_ball():
    originals = torch.full((2000, 1, 2, 2), 0.5)

    offsets = (Ball("linf", 0.25).uniform(originals, rows(2000)) - originals) / 0.25

    quantiles = offsets.flatten().quantile(torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9]))
    torch.testing.assert_close(
        quantiles, torch.tensor([-0.8, -0.5, 0.0, 0.5, 0.8]), rtol=0, atol=0.05
    )


def test_random_points_are_uniform_in_the_l2_ball():
    originals = torch.full((4000, 1, 1, 3), 0.5)

    offsets = ((Ball("l2", 0.25).uniform(originals, rows(4000)) - originals) / 0.25).flatten(1)

    # In three dimensions the cube of the distance from the centre is uniform in [0, 1].
    volumes = offsets.norm(dim=1) ** 3
    quantiles = volumes.quantile(torch.tensor([0.1, 0.5, 0.9]))
    torch.testing.assert_close(quantiles, torch.tensor([0.1, 0.5, 0.9]), rtol=0, atol=0.04)
    torch.testing.assert_close(offsets.mean(dim=0), torch.zeros(3), rtol=0, atol=0.04)


@pytest.mark.parametrize("norm", NORMS)
def test_contains_tells_each_image_apart(norm):
    originals = torch.full((4, 1, 1, 2), 0.5)
    pixels = originals.clone()
    pixels[0, 0, 0, 0] += 0.1
    pixels[1, 0, 0, 0] += 0.1001
    pixels[2, 0, 0, 0] = torch.nan

    contains = Ball(norm, 0.1).contains(pixels, originals, tolerance=1e-6)

    assert contains.tolist() == [True, False, False, True]


def test_a_projected_point_of_a_large_image_is_in_the_l2_ball():
    # float32 loses up to 4e-5 of the length of half a million values
    originals = torch.full((1, 3, 400, 400), 0.5)
    changes = torch.randn(originals.shape, generator=torch.Generator().manual_seed(3)) ** 5
    for radius in (0.5, 3.0):
        ball = Ball("l2", radius)
        points = ball.project(originals + 0.01 * changes, originals)
        assert ball.contains(points, originals).all()
        farther = originals + 1.001 * (points - originals)
        assert not ball.contains(farther, originals).any()


def test_the_corner_of_a_cube_is_outside_the_l2_ball_of_its_radius():
    originals = torch.full((1, 1, 1, 2), 0.5)

    assert Ball("linf", 0.1).contains(originals + 0.1, originals).all()
    assert not Ball("l2", 0.1).contains(originals + 0.1, originals).any()


@pytest.mark.parametrize(("norm", "radius"), [("l1", 0.1), ("linf", -0.1), ("l2", math.nan)])
def test_a_ball_of_unknown_norm_or_impossible_radius_is_refused(norm, radius):
    with pytest.raises(ValueError, match="expected"):
        Ball(norm, radius)
