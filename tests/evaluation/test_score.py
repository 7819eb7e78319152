import pytest
import torch
from scipy.stats import binomtest

from tasks.data.arrays import BadTensor, Outcomes
from tasks.evaluation.score import joined, score, share_right


def outcomes_of(right: list[list[int]]) -> Outcomes:
    """The true class of each image has probability 0.8 where it is right, else 0.1."""
    table = torch.tensor(right)
    count, redraws = table.shape
    true = torch.arange(count) % 3
    answered = torch.where(table == 1, true[:, None], (true[:, None] + 1) % 3)
    probabilities = torch.full((count, redraws, 3), 0.1)
    probabilities.scatter_(2, answered[:, :, None], 0.8)
    return Outcomes(probabilities, true, torch.arange(count))


RIGHT = [[1, 1, 1], [1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]]


def test_accuracy_is_the_mean_over_images_of_the_share_of_right_redraws() -> None:
    outcomes = outcomes_of(RIGHT)
    result = score(outcomes)
    torch.testing.assert_close(
        share_right(outcomes), torch.tensor([1, 2 / 3, 0, 1, 1 / 3], dtype=torch.float64)
    )
    assert (result.images, result.redraws) == (5, 3)
    assert result.accuracy == pytest.approx(100 * 9 / 15)


def test_spread_is_over_redraws_and_an_image_counts_that_is_right_in_every_one() -> None:
    result = score(outcomes_of(RIGHT))
    assert result.spread == pytest.approx(0.0)
    assert result.right_in_every_redraw == pytest.approx(40)
    uneven = score(outcomes_of([[1, 0], [1, 0], [1, 1], [1, 0]]))
    assert uneven.spread == pytest.approx(torch.tensor([100.0, 25.0]).std().item())


def test_a_single_redraw_has_no_spread() -> None:
    result = score(outcomes_of([[1], [0], [1]]))
    assert result.spread is None
    assert result.right_in_every_redraw == result.accuracy


def test_the_interval_is_wilsons_with_the_number_of_images() -> None:
    right = [[1] * 10 if image < 30 else [0] * 10 for image in range(40)]
    result = score(outcomes_of(right))
    expected = binomtest(30, 40).proportion_ci(0.95, method="wilson")
    assert result.interval == pytest.approx((100 * expected.low, 100 * expected.high))


def test_the_true_probability_is_its_mean_over_images_and_redraws() -> None:
    result = score(outcomes_of(RIGHT))
    assert result.true_probability == pytest.approx((9 * 0.8 + 6 * 0.1) / 15)


def test_a_score_is_written_down_as_plain_numbers() -> None:
    written = score(outcomes_of(RIGHT)).model_dump(mode="json")
    assert written["images"] == 5
    assert written["interval"] == pytest.approx(list(score(outcomes_of(RIGHT)).interval))


def test_joined_shards_score_as_one() -> None:
    whole = outcomes_of(RIGHT)
    parts = [
        Outcomes(whole.probabilities[part], whole.labels[part], whole.ids[part])
        for part in (slice(0, 2), slice(2, 5))
    ]
    assert score(joined(parts)) == score(whole)


def test_an_image_in_two_shards_is_refused() -> None:
    with pytest.raises(BadTensor, match="more than one shard"):
        joined([outcomes_of(RIGHT), outcomes_of(RIGHT)])


def test_nothing_and_labels_out_of_range_cannot_be_scored() -> None:
    none = torch.empty(0, dtype=torch.int64)
    with pytest.raises(BadTensor, match="nothing to score"):
        score(Outcomes(torch.empty(0, 1, 3), none, none))
    answers = torch.full((2, 1, 3), 1 / 3)
    with pytest.raises(BadTensor, match="a label is not below 3"):
        score(Outcomes(answers, torch.tensor([2, 5]), torch.arange(2)))
