"""Numbers of representations, against scikit-learn and against known answers."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, silhouette_score
from sklearn.neighbors import KNeighborsClassifier

from transferlab.errors import UserError
from transferlab.measure.representation import cka, debiased_cka, gram, hsic, knn_accuracy, selectivity, silhouette


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


def test_the_independence_criterion_is_unbiased_by_its_definition():
    """The U-statistic over all ordered choices of four images, written out."""
    x, y = (world(6, units, seed=seed)[0] for units, seed in ((3, 1), (5, 2)))
    k, m = ((z.double() @ z.double().T).numpy() for z in (x, y))
    terms = [k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in itertools.permutations(range(6), 4)]
    assert hsic(gram(x), gram(y)).item() == pytest.approx(np.mean(terms), rel=1e-6)


def aligned(x: torch.Tensor, y: torch.Tensor, batch: int) -> float:
    return debiased_cka((gram(a), gram(b)) for a, b in zip(x.split(batch), y.split(batch), strict=True))


def test_debiased_cka_sees_through_rotations_and_scales():
    x, _ = world(64)
    turned = torch.linalg.qr(torch.randn(7, 7, generator=torch.Generator().manual_seed(1)))[0]
    for batch in (8, 16, 64):
        assert aligned(x, x, batch) == pytest.approx(1)
        assert aligned(x, 3 * x @ turned + 2, batch) == pytest.approx(1, abs=1e-6)
        assert aligned(x, world(64, 4, seed=5)[0], batch) < 0.9


def test_wide_independent_representations_are_alike_only_until_debiased():
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn(80, 2000, generator=draw) for _ in range(2))
    assert cka(x, y) > 0.9
    for batch in (20, 80):
        assert abs(aligned(x, y, batch)) < 0.05


def test_in_batches_it_is_that_of_all_images():
    x = world(400, 6, 4)[0]
    y = torch.relu(x @ torch.randn(6, 9, generator=torch.Generator().manual_seed(3)))
    order = torch.randperm(400, generator=torch.Generator().manual_seed(4))
    assert aligned(x[order], y[order], 25) == pytest.approx(aligned(x, y, 400), abs=0.02)
    assert aligned(x, y, 400) == pytest.approx(cka(x, y), abs=0.01), "many images have no bias"


def test_maps_are_aligned_position_by_position_and_dead_layers_not_at_all():
    maps = torch.randn(12, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    assert aligned(maps, maps.flatten(1), 6) == pytest.approx(1)
    assert aligned(maps, torch.ones(12, 5), 6) == 0


def test_neighbours_do_not_vote_on_several_labels():
    with pytest.raises(
        UserError, match=r"labels \(=\(4, 3\)\): must be one an image; several, or boxes, are not voted"
    ):
        knn_accuracy(torch.randn(4, 2), torch.zeros(4, 3), torch.randn(4, 2), torch.zeros(4, 3))
