import numpy as np
import pytest
import torch

from tasks.attacks.search.objectives import Goal

LOGITS = torch.tensor([[4.0, 1.0, 3.0, 0.0], [2.0, 5.0, 1.0, 0.5]])
LABELS = torch.tensor([0, 0])
TARGETS = torch.tensor([2, 1])


def test_the_margin_is_the_lead_of_the_best_wrong_class_or_of_the_target():
    assert Goal(LABELS).objective(LOGITS, "margin").tolist() == [-1.0, 3.0]
    assert Goal(LABELS, TARGETS).objective(LOGITS, "margin").tolist() == [-1.0, 3.0]
    aside = Goal(LABELS, torch.tensor([1, 2]))
    assert aside.objective(LOGITS, "margin").tolist() == [-3.0, -4.0]


def test_cross_entropy_is_the_labels_or_minus_the_targets():
    shares = torch.log_softmax(LOGITS.double(), dim=1).numpy()
    away = Goal(LABELS).objective(LOGITS.double(), "cross-entropy")
    towards = Goal(LABELS, TARGETS).objective(LOGITS.double(), "cross-entropy")

    np.testing.assert_allclose(away, -shares[[0, 1], [0, 0]])
    np.testing.assert_allclose(towards, shares[[0, 1], [2, 1]])


def test_dlr_is_the_papers_by_hand():
    # the lead over the label by the first less the third, or less the mean of third and fourth
    away = Goal(LABELS).objective(LOGITS, "dlr")
    towards = Goal(LABELS, TARGETS).objective(LOGITS, "dlr")

    torch.testing.assert_close(away, torch.tensor([-1 / 3, 3 / 4]))
    torch.testing.assert_close(towards, torch.tensor([-1 / 3.5, 3 / 4.25]))


@pytest.mark.parametrize("goal", [Goal(LABELS), Goal(LABELS, TARGETS)])
def test_dlr_does_not_change_with_the_scale_of_the_logits(goal):
    torch.testing.assert_close(
        goal.objective(LOGITS * 100 + 7, "dlr"), goal.objective(LOGITS, "dlr")
    )


@pytest.mark.parametrize(("targets", "needed"), [(None, 3), (torch.tensor([1, 1]), 4)])
def test_dlr_says_how_many_classes_it_needs(targets, needed):
    with pytest.raises(ValueError, match=f"dlr needs {needed} classes, there are {needed - 1}"):
        Goal(LABELS, targets).objective(LOGITS[:, : needed - 1], "dlr")


def test_a_goal_is_reached_at_any_wrong_class_or_at_the_target_alone():
    assert Goal(LABELS).reached(LOGITS).tolist() == [False, True]
    assert Goal(LABELS, torch.tensor([0, 2])).reached(LOGITS).tolist() == [True, False]
