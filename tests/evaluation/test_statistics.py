import itertools
import math
import time

import numpy as np
import pytest
from scipy.stats import binomtest, multinomial, permutation_test
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from tasks.evaluation.statistics import (
    gain_interval,
    holm,
    images_needed,
    paired_differences,
    sign_flip_interval,
    sign_flip_test,
    smallest_gain,
    summed_shares,
    wilson_interval,
)
from tasks.integrity.findings import beyond_interval


@pytest.mark.parametrize(("successes", "count"), [(0, 10), (10, 10), (7, 10), (31, 1000)])
def test_wilson_is_scipys(successes: int, count: int) -> None:
    for confidence in (0.9, 0.95, 0.99):
        expected = binomtest(successes, count).proportion_ci(confidence, method="wilson")
        interval = wilson_interval(successes, count, confidence=confidence)
        assert interval == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("successes", [0.0, 0.4, 61.7, 99.0, 100.0])
def test_wilson_is_that_of_statsmodels_for_shares_of_redraws_too(successes: float) -> None:
    expected = proportion_confint(successes, 100, method="wilson")
    assert wilson_interval(successes, 100) == pytest.approx(expected, abs=1e-12)


def test_wilson_is_scipys_for_every_number_of_images_up_to_2000_and_exact_at_its_ends() -> None:
    generator = np.random.default_rng(0)
    # a result made directly, since the p-value of the test takes longer than all else here
    result = type(binomtest(1, 2))
    for count in range(1, 2001):
        inner = generator.integers(0, count, size=2, endpoint=True)
        for successes in {0, 1, count - 1, count, *inner.tolist()}:
            low, high = wilson_interval(successes, count)
            made = result(successes, count, "two-sided", successes / count, 1.0)
            expected = made.proportion_ci(0.95, method="wilson")
            assert abs(low - expected.low) < 1e-12
            assert abs(high - expected.high) < 1e-12
            assert (low == 0) == (successes == 0)
            assert (high == 1) == (successes == count)


@pytest.mark.parametrize("count", [1, 2, 13, 15, 100, 603, 1999, 2000])
def test_wilson_holds_the_rate_and_rises_with_the_successes(count: int) -> None:
    ends = [wilson_interval(successes, count) for successes in range(count + 1)]
    assert all(low <= k / count <= high for k, (low, high) in enumerate(ends))
    assert ends == sorted(ends)
    expected = np.transpose(proportion_confint(np.arange(count + 1), count, method="wilson"))
    np.testing.assert_allclose(ends, expected, atol=1e-12)


def test_an_accuracy_never_grows_beyond_an_equal_one_whatever_the_number_of_images() -> None:
    for count in range(1, 2001):
        for right in (0, count // 3, count):
            assert not beyond_interval(right, right, count)


def test_wilson_takes_shares_and_holds_the_rate() -> None:
    low, high = wilson_interval(33.3, 100)
    assert 0 < low < 0.333 < high < 1


@pytest.mark.parametrize(("successes", "count"), [(0, 0), (-1, 5), (5.1, 5)])
def test_wilson_refuses_what_is_no_rate(successes: float, count: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson_interval(successes, count)


@pytest.mark.parametrize(("wins", "losses"), [(5, 0), (1, 1), (12, 3), (3, 12), (400, 340)])
def test_with_one_draw_each_the_test_is_exact_mcnemar(wins: int, losses: int) -> None:
    differences = np.array([1] * wins + [-1] * losses + [0] * 50)
    expected = binomtest(wins, wins + losses).pvalue
    assert sign_flip_test(differences) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("wins", "losses"), [(9, 2), (30, 41), (200, 150)])
def test_with_one_draw_each_the_test_is_mcnemar_of_statsmodels(wins: int, losses: int) -> None:
    first, second = np.ones((2, 1000, 1), dtype=bool)
    second[:wins] = False
    first[wins : wins + losses] = False
    table = [[1000 - wins - losses, wins], [losses, 0]]
    p = sign_flip_test(paired_differences(first, second))
    assert p == pytest.approx(mcnemar(table, exact=True).pvalue, rel=1e-9)


def test_with_several_redraws_it_is_the_paired_permutation_test_of_scipy() -> None:
    generator = np.random.default_rng(3)
    for _ in range(5):
        # numbers of redraws that differ, on few enough images to count all flips
        first = generator.random((9, 4)) < 0.7
        second = generator.random((9, 3)) < 0.4
        differences = paired_differences(first, second)
        expected = permutation_test(
            (differences, np.zeros_like(differences)),
            lambda one, other, axis: (one - other).sum(axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=np.inf,
        )
        assert sign_flip_test(differences) == pytest.approx(expected.pvalue, rel=1e-9)


def test_with_several_redraws_it_counts_every_flip_of_the_signs() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        differences = generator.integers(-6, 8, size=11)
        sums = [abs(np.dot(signs, differences)) for signs in itertools.product((-1, 1), repeat=11)]
        expected = np.mean(np.array(sums) >= abs(differences.sum()))
        assert sign_flip_test(differences) == pytest.approx(expected, rel=1e-12)


def test_neither_unit_nor_order_nor_direction_changes_the_p_value() -> None:
    differences = np.array([3, -1, 2, 2, 0, -2, 5, 1])
    p = sign_flip_test(differences)
    assert sign_flip_test(-7 * differences[::-1]) == pytest.approx(p, rel=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 13, 100, 501, 1000, 1999, 2000])
def test_with_one_draw_each_the_test_is_scipys_for_up_to_2000_differing_images(count: int) -> None:
    generator = np.random.default_rng(count)
    for wins in {0, count, count // 2, *generator.integers(0, count, size=3).tolist()}:
        differences = np.repeat([1, -1], [wins, count - wins])
        expected = binomtest(wins, count).pvalue
        assert sign_flip_test(differences) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_as_much_won_as_lost_has_a_p_value_of_exactly_one() -> None:
    generator = np.random.default_rng(2)
    for _ in range(50):
        half = generator.integers(-9, 10, size=generator.integers(1, 200))
        assert sign_flip_test(np.concatenate((half, -half))) == 1


def test_no_difference_is_no_evidence() -> None:
    assert sign_flip_test(np.zeros(100, dtype=np.int64)) == 1
    assert sign_flip_test(np.zeros(0, dtype=np.int64)) == 1


def test_under_the_null_hypothesis_small_p_values_are_as_rare_as_they_say() -> None:
    generator = np.random.default_rng(1)
    p_values = np.array([sign_flip_test(generator.integers(-5, 6, size=60)) for _ in range(600)])
    for level in (0.05, 0.2, 0.5):
        assert abs((p_values <= level).mean() - level) < 4 * np.sqrt(level * (1 - level) / 600)


def test_of_null_data_sets_with_ten_redraws_at_most_5_percent_are_rejected() -> None:
    generator = np.random.default_rng(6)
    sets, images, redraws = 400, 120, 10
    rejected = 0
    for _ in range(sets):
        # images differ in how hard they are; the two defenses are drawn alike
        chance = generator.beta(0.4, 0.6, size=(images, 1))
        first, second = generator.random((2, images, redraws)) < chance
        rejected += sign_flip_test(paired_differences(first, second)) <= 0.05
    # three standard deviations of a binomial of 400 sets: 20 + 13.1
    assert rejected <= sets * 0.05 + 3 * np.sqrt(sets * 0.05 * 0.95)


def test_of_null_tables_with_ten_redraws_at_most_5_percent_find_anything_after_holm() -> None:
    generator = np.random.default_rng(7)
    tables, gains, images, redraws = 150, 6, 80, 10
    with_any = 0
    for _ in range(tables):
        chance = generator.beta(0.4, 0.6, size=(images, 1))
        # gains of one table share their baseline, so they are not independent of each other
        right = generator.random((gains + 1, images, redraws)) < chance
        p_values = [sign_flip_test(paired_differences(each, right[0])) for each in right[1:]]
        with_any += min(holm(p_values)) <= 0.05
    assert with_any <= tables * 0.05 + 3 * np.sqrt(tables * 0.05 * 0.95)


def test_differences_are_of_shares_and_not_of_counts() -> None:
    first = np.array([[1, 1], [1, 0], [0, 0]], dtype=bool)
    second = np.array([[1, 1, 1], [1, 0, 1], [1, 0, 0]], dtype=bool)
    assert paired_differences(first, second).tolist() == [0, -1, -2]
    single = np.array([[1], [0], [1]], dtype=bool)
    assert paired_differences(single, single[::-1]).tolist() == [0, 0, 0]
    assert paired_differences(single, ~single).tolist() == [1, -1, 1]


def test_differences_of_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="3 images cannot be paired with 2"):
        paired_differences(np.ones((3, 1), dtype=bool), np.ones((2, 1), dtype=bool))


def test_holm_steps_down_and_never_decreases() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_holm_is_that_of_statsmodels() -> None:
    generator = np.random.default_rng(8)
    for count in (1, 2, 7, 42):
        p_values = (generator.random(count) ** 4).tolist()
        rejected, adjusted, _, _ = multipletests(p_values, alpha=0.05, method="holm")
        assert holm(p_values) == pytest.approx(adjusted.tolist(), abs=1e-12)
        assert [p <= 0.05 for p in holm(p_values)] == rejected.tolist()


def test_holm_rejects_what_comparing_with_shrinking_levels_rejects() -> None:
    generator = np.random.default_rng(2)
    for _ in range(50):
        p_values = (generator.random(8) ** 3).tolist()
        rejected = set()
        for rank, index in enumerate(np.argsort(p_values).tolist()):
            if p_values[index] > 0.05 / (8 - rank):
                break
            rejected.add(index)
        assert {index for index, p in enumerate(holm(p_values)) if p <= 0.05} == rejected


@pytest.mark.parametrize(
    ("images", "comparisons", "points"),
    [(1000, 1, 2.2), (10_000, 1, 0.6), (1000, 42, 3.4), (10_000, 42, 1.0)],
)
def test_the_smallest_visible_gain_at_ten_percent_discordant_images(
    images: int, comparisons: int, points: float
) -> None:
    gain = smallest_gain(images, comparisons=comparisons)
    assert gain is not None
    assert round(gain, 1) == points


def test_the_smallest_gain_is_significant_and_the_next_smaller_is_not() -> None:
    gain = smallest_gain(1000, comparisons=5)
    assert gain is not None
    wins = round((100 + gain * 10) / 2)
    assert binomtest(wins, 100).pvalue <= 0.01
    assert binomtest(wins - 1, 100).pvalue > 0.01


def test_too_few_images_show_no_gain_at_all() -> None:
    assert smallest_gain(40) is None


@pytest.mark.parametrize("comparisons", [1, 42])
def test_the_images_it_takes_are_enough_and_much_fewer_are_not(comparisons: int) -> None:
    needed = images_needed(1.0, comparisons=comparisons)
    enough = smallest_gain(needed, comparisons=comparisons)
    fewer = smallest_gain(round(0.9 * needed), comparisons=comparisons)
    assert enough is not None
    assert fewer is not None
    assert enough <= 1.0 < fewer


@pytest.mark.parametrize(("points", "discordant"), [(0.0, 0.1), (-1.0, 0.1), (1.0, 0.0)])
def test_no_number_of_images_shows_what_is_no_gain(points: float, discordant: float) -> None:
    with pytest.raises(ValueError, match="a gain of"):
        images_needed(points, discordant=discordant)


def _one_sided(differences: np.ndarray, mean: float) -> tuple[float, float]:
    """The p-values of a mean, above and below, over all flips of the signs one by one."""
    shifted = differences - mean
    signs = np.array(list(itertools.product([1, -1], repeat=len(differences))))
    sums = signs @ shifted
    return float((sums >= shifted.sum() - 1e-9).mean()), float(
        (sums <= shifted.sum() + 1e-9).mean()
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("confidence", [0.9, 0.99])
def test_the_interval_holds_the_means_that_flipping_each_sign_does_not_reject(
    seed: int, confidence: float
) -> None:
    differences = np.random.default_rng(seed).integers(-3, 4, size=11)
    low, high = sign_flip_interval(differences, confidence=confidence)
    tail = (1 - confidence) / 2
    for mean in (*np.linspace(-3, 3, 41), low, high, low - 1e-6, high + 1e-6):
        accepted = min(_one_sided(differences, mean)) > tail
        assert accepted == (low - 1e-12 <= mean <= high + 1e-12)


def test_the_interval_is_that_of_scipys_permutation_test() -> None:
    differences = np.array([3, 1, -1, 2, 2, 0, 1, 3, -2, 1, 0, 2])
    low, high = sign_flip_interval(differences)

    def p_value(mean: float) -> float:
        found = permutation_test(
            (differences - mean,), np.sum, permutation_type="samples", n_resamples=np.inf
        )
        return float(found.pvalue)

    for inside, outside in ((low + 1e-6, low - 1e-6), (high - 1e-6, high + 1e-6)):
        assert p_value(inside) > 0.01 >= p_value(outside)


@pytest.mark.parametrize("seed", range(20))
def test_the_interval_excludes_zero_where_the_test_rejects_it(seed: int) -> None:
    generator = np.random.default_rng(seed)
    differences = generator.integers(-2, 4, size=60) * (generator.random(60) < 0.5)
    low, high = sign_flip_interval(differences)
    assert (low > 0 or high < 0) == (sign_flip_test(differences) <= 0.01)


def test_a_sampled_interval_is_the_exact_one_but_for_its_sampling_and_the_same_each_time() -> None:
    generator = np.random.default_rng(1)
    differences = generator.integers(-10, 11, size=300) * (generator.random(300) < 0.2)
    exact = sign_flip_interval(differences, counted_out=10**12)
    sampled = sign_flip_interval(differences, counted_out=0)
    width = exact[1] - exact[0]
    assert sampled == pytest.approx(exact, abs=0.03 * width)
    assert sampled == sign_flip_interval(differences, counted_out=0)
    assert sampled != sign_flip_interval(differences, counted_out=0, seed=1)


def test_a_sampled_interval_takes_time_linear_in_the_images() -> None:
    few, many = (np.tile(np.arange(-10, 11), times) for times in (50, 5_000))
    sign_flip_interval(few, counted_out=0)
    began = time.process_time()
    low, high = sign_flip_interval(many, counted_out=0)
    assert time.process_time() - began < 2
    assert -0.1 < low < 0 < high < 0.1


def test_where_nothing_differs_the_interval_is_zero_and_of_few_images_it_is_everything() -> None:
    assert sign_flip_interval(np.zeros(200, dtype=np.int64)) == (0, 0)
    assert sign_flip_interval(np.array([1, 1, 1])) == (-math.inf, math.inf)
    with pytest.raises(ValueError, match="no images"):
        sign_flip_interval(np.array([], dtype=np.int64))


@pytest.mark.parametrize("images", [20, 100, 500])
@pytest.mark.parametrize("won", [0.005, 0.02, 0.05])
@pytest.mark.parametrize("lost", [0.0, 0.01])
def test_the_interval_of_a_gain_keeps_its_99_percent_where_few_images_differ(
    images: int, won: float, lost: float
) -> None:
    """Summed over all results, weighted by their probability. The sign-flip interval has 12 %."""
    covered = 0.0
    for wins in range(images + 1):
        losing = range(images - wins + 1) if lost else range(1)
        chances = multinomial.pmf(
            [(wins, losses, images - wins - losses) for losses in losing],
            images,
            [won, lost, 1 - won - lost],
        )
        for losses, chance in zip(losing, np.atleast_1d(chances), strict=True):
            if chance > 1e-5:
                equal = images - wins - losses
                differences = np.array([1] * wins + [-1] * losses + [0] * equal)
                low, high = gain_interval(differences, most=1)
                covered += chance * (low <= won - lost <= high)
    assert covered >= 0.985


def test_where_one_image_in_ten_differs_the_interval_of_a_gain_is_the_sign_flip_interval() -> None:
    differences = np.array([2] * 22 + [-2] * 18 + [0] * 360)
    assert gain_interval(differences, most=2) == sign_flip_interval(differences)


def test_equal_results_bound_a_gain_as_clopper_and_pearson_do() -> None:
    for images in (20, 200):
        bound = binomtest(0, images).proportion_ci(0.99, method="exact").high
        found = gain_interval(np.zeros(images, dtype=np.int64), most=6)
        assert found == pytest.approx((-6 * bound, 6 * bound))
    won = binomtest(3, 200).proportion_ci(0.99, method="exact").high
    found = gain_interval(np.array([6] * 3 + [-6] + [0] * 196), most=6)
    assert found[1] == pytest.approx(6 * (won - 1 / 200))
    assert gain_interval(np.array([6, 6]), most=6)[1] == 6
    with pytest.raises(ValueError, match="more than 1"):
        gain_interval(np.array([2]), most=1)


def test_five_points_show_at_200_images_of_which_a_tenth_differs_and_two_at_1000() -> None:
    for images, wins, losses in ((200, 17, 3), (1000, 63, 37)):
        differences = np.array([1] * wins + [-1] * losses + [0] * (images - wins - losses))
        half = np.ptp(sign_flip_interval(differences)) / 2
        assert half == pytest.approx({200: 0.05, 1000: 0.026}[images], abs=0.01)


def test_shares_of_several_models_add_up_in_one_unit() -> None:
    one = np.array([[True, False], [True, True]])
    other = np.array([[True, True, False], [False, False, False]])
    third = np.array([[True], [False]])
    total, unit = summed_shares([one, third], [other])
    assert (total / unit).tolist() == pytest.approx([1 / 2 + 1 - 2 / 3, 1.0])
    with pytest.raises(ValueError, match="2 images cannot be paired with 1"):
        summed_shares([one], [third[:1]])
