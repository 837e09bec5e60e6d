"""Average precision: cases made by hand, an independent slow way, and scikit-learn where it means the same."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, log_loss

from transferlab.errors import UserError
from transferlab.measure.metrics import scores
from transferlab.measure.ranking import average_precision, precision_recall, ranking_scores

NAN = math.nan
answers_and_right = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=30).filter(
    lambda pairs: any(right for _, right in pairs)
)


def tensors(pairs) -> tuple[torch.Tensor, torch.Tensor]:
    answers, right = zip(*pairs, strict=True)
    return torch.tensor(answers).double(), torch.tensor(right)


def slowly(answers: list[float], right: list[bool], recalls: int | None) -> float:
    """At each recall the best precision of all thresholds that reach it, threshold by threshold."""
    points = []
    for threshold in set(answers):
        taken = [r for a, r in zip(answers, right, strict=True) if a >= threshold]
        points.append((sum(taken) / sum(right), sum(taken) / len(taken)))
    best = lambda recall: max((p for r, p in points if r >= recall - 1e-12), default=0)  # noqa: E731
    if recalls:
        return sum(best(i / (recalls - 1)) for i in range(recalls)) / recalls
    return sum(best((i + 1) / sum(right)) for i in range(sum(right))) / sum(right)


@given(answers_and_right)
def test_an_independent_way_agrees(pairs):
    answers, right = tensors(pairs)
    for recalls in (None, 11):
        wanted = slowly(answers.tolist(), right.tolist(), recalls)
        assert average_precision(answers, right, recalls) == pytest.approx(wanted, abs=1e-9)


@given(answers_and_right)
def test_scikit_learn_agrees_on_the_curve(pairs):
    """Its average precision is not interpolated: the same sum over our points is it, and ours is never below."""
    answers, right = tensors(pairs)
    precision, recall = precision_recall(answers, right)
    wanted = average_precision_score(right.numpy(), answers.numpy())
    assert (precision * recall.diff(prepend=torch.zeros(1))).sum().item() == pytest.approx(wanted)
    assert average_precision(answers, right) >= wanted - 1e-12


@pytest.mark.parametrize(
    ("answers", "right", "area", "eleven"),
    [
        ([3, 2, 1], [1, 0, 0], 1.0, 1.0),
        ([3, 2, 1], [0, 0, 1], 1 / 3, 1 / 3),
        ([1, 1, 1], [0, 1, 0], 1 / 3, 1 / 3),  # equal answers, in whatever order
        ([4, 3, 2, 1], [1, 0, 1, 0], (1 + 2 / 3) / 2, (6 * 1 + 5 * 2 / 3) / 11),
        ([4, 3, 2, 1], [0, 1, 1, 1], 3 / 4, 3 / 4),  # interpolated: the best that comes later
        ([5], [1], 1.0, 1.0),
    ],
)
def test_cases_made_by_hand(answers, right, area, eleven):
    answers, right = torch.tensor(answers).double(), torch.tensor(right).bool()
    assert average_precision(answers, right) == pytest.approx(area)
    assert average_precision(answers, right, 11) == pytest.approx(eleven)


def test_a_class_without_images_and_images_that_are_not_asked():
    """The class is left out of the mean, and counted; an image is left out for the class."""
    logits = torch.tensor([[2.0, 0.0, 1.0], [1.0, 0.0, 3.0], [3.0, 0.0, 2.0]])
    labels = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [NAN, 0.0, 0.0]])
    found = ranking_scores(logits, labels)
    assert found["average_precisions"] == [1.0, None, 1.0]
    assert (found["mean_ap"], found["mean_ap_11"], found["classes_absent"], found["n"]) == (1.0, 1.0, 1, 3)
    labels[2, 0] = 0
    assert ranking_scores(logits, labels)["average_precisions"] == [0.5, None, 1.0]


def test_the_log_loss_is_scikit_learns():
    random = np.random.default_rng(0)
    logits, labels = torch.tensor(random.normal(size=(20, 3))), torch.tensor(random.integers(0, 2, (20, 3))).float()
    labels[3, 1] = NAN
    asked = ~labels.isnan()
    found = scores(logits, labels)
    assert found["log_loss"] == pytest.approx(log_loss(labels[asked], logits[asked].sigmoid()), abs=1e-5)


def test_nothing_to_be_right_about_is_refused():
    with pytest.raises(UserError, match=r"images \(=4\): none is of any class"):
        ranking_scores(torch.zeros(4, 2), torch.zeros(4, 2))
    with pytest.raises(UserError, match=r"images \(=0\): there are none"):
        scores(torch.zeros(0, 2), torch.zeros(0, 2))
