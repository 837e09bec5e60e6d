"""Numbers of representations, against scikit-learn and against known answers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, silhouette_score
from sklearn.neighbors import KNeighborsClassifier

from transferlab.measure.representation import cka, knn_accuracy, selectivity, silhouette


def world(count: int = 60, units: int = 7, classes: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features after a ReLU, so with many ties, that know a little of their classes."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    return torch.relu(
        torch.randn(count, units, generator=draw) + 0.7 * torch.randn(classes, units, generator=draw)[labels]
    ), labels


@given(st.integers(12, 80), st.integers(2, 9), st.integers(2, 6), st.integers(0, 99))
def test_silhouette_is_that_of_scikit_learn(count, units, classes, seed):
    x, labels = world(count, units, classes, seed)
    x = x + 0.1  # the peer knows no cosine of an image without any activation
    assert silhouette(x, labels) == pytest.approx(silhouette_score(x.double(), labels, metric="cosine"), abs=1e-6)


def test_silhouette_of_classes_apart_and_mixed():
    labels = torch.arange(40) % 2
    assert silhouette(torch.nn.functional.one_hot(labels).float(), labels) == pytest.approx(1)
    x, _ = world()
    assert silhouette(x, torch.arange(len(x)) // 2) < 0


def test_an_image_alone_in_its_class_counts_as_nothing():
    x, labels = world(9, classes=4)
    assert labels.bincount().tolist() == [3, 2, 2, 2]
    labels[1] = 9
    ours = silhouette(x + 0.1, labels)
    assert ours == pytest.approx(silhouette_score((x + 0.1).double(), labels, metric="cosine"), abs=1e-6)


@given(st.integers(10, 60), st.integers(2, 5), st.integers(0, 99))
def test_selectivity_is_the_largest_area_under_the_curve(count, classes, seed):
    x, labels = world(count, 3, classes, seed)
    found = selectivity(x, labels)
    for unit, value in enumerate(found):
        areas = [roc_auc_score(labels == c, x[:, unit]) for c in range(classes)]
        assert value.item() == pytest.approx(max(areas))


def test_selectivity_does_not_ask_for_all_labels():
    x, labels = world()
    torch.testing.assert_close(selectivity(x, labels), selectivity(x, labels * 3 + 2))


def test_cka_sees_through_rotations_and_scales():
    x, _ = world()
    turned = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(1)))[0]
    assert cka(x, 3 * x @ turned + 2) == pytest.approx(1, abs=1e-6)
    assert cka(x, x[torch.randperm(60, generator=torch.Generator().manual_seed(2))]) < 0.3
    other = world(seed=5)[0][:, :4]
    assert cka(x, other) == pytest.approx(cka(other, x))


def test_cka_of_centred_columns_is_a_squared_correlation():
    x, y = (world(units=1, seed=seed)[0] for seed in (0, 1))
    assert cka(x, y) == pytest.approx(torch.corrcoef(torch.stack([x[:, 0], y[:, 0]]))[0, 1].item() ** 2, rel=1e-5)


def test_neighbours_vote_as_in_scikit_learn():
    x, labels = world(200, 5)
    x = x.double() + torch.rand(x.shape, generator=torch.Generator().manual_seed(1))  # no two of one direction
    known, asked = slice(0, 150), slice(150, 200)
    peer = KNeighborsClassifier(1, metric="cosine").fit(x[known], labels[known])
    assert knn_accuracy(x[known], labels[known], x[asked], labels[asked], 1) == pytest.approx(
        peer.score(x[asked], labels[asked])
    )
    assert knn_accuracy(x[known], labels[known], x[known], labels[known], 1) == 1


def test_of_equal_votes_the_nearer_wins():
    known = torch.tensor([[1.0, 0.0], [1.0, 0.3], [1.0, 0.6], [1.0, 0.9]])
    labels, asked = torch.tensor([1, 0, 0, 1]), torch.tensor([[1.0, 0.0]])
    assert knn_accuracy(known, labels, asked, torch.tensor([1]), 4) == 1
    assert knn_accuracy(known, labels, asked, torch.tensor([0]), 3) == 1
    assert knn_accuracy(known, labels, asked, torch.tensor([1]), 1) == 1
