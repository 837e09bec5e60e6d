"""Transferability scores against references written from their definitions, and on features whose answer is known."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.covariance import ledoit_wolf_shrinkage
from torch.nn import functional as F

from transferlab.errors import UserError
from transferlab.measure import transferability
from transferlab.measure.transferability import h_score, leep, logme, nce, regularised_h_score, transrate

OF_HEAD, OF_FEATURES = ("leep", "nce"), ("logme", "h_score", "regularised_h_score", "transrate")


def drawn(count: int, units: int, classes: int = 4, seed: int = 0, apart: float = 1.0) -> tuple:
    """Features of classes that lie apart, and labels of uneven frequency, every class at least twice."""
    rng = np.random.default_rng(seed)
    often = 1 / np.arange(1, classes + 1)
    free = rng.choice(classes, count - 2 * classes, p=often / often.sum())
    labels = np.concatenate([np.arange(classes).repeat(2), free])
    x = rng.normal(size=(count, units)) * rng.uniform(0.2, 2, units) + apart * rng.normal(size=(classes, units))[labels]
    return torch.from_numpy(x + 0.5), torch.from_numpy(labels)


def chances(count: int = 60, sources: int = 7, seed: int = 0) -> tuple:
    x, labels = drawn(count, sources, seed=seed)
    return (2 * x).softmax(1), labels


SHAPES = [(80, 6), (40, 40), (24, 60)]  # more images than features, as many, fewer
sizes = pytest.mark.parametrize(("count", "units"), SHAPES)
each = pytest.mark.parametrize("name", OF_HEAD + OF_FEATURES)


def given(name: str, seed: int = 0) -> tuple:
    return chances(seed=seed) if name in OF_HEAD else drawn(50, 8, seed=seed)


# ------------------------------------------------------------------------------------------------------- definitions


def test_leep_is_that_of_the_definition():
    theta, labels = (z.numpy() for z in chances())
    n, sources = theta.shape
    joint = np.zeros((labels.max() + 1, sources))
    for i in range(n):
        for z in range(sources):
            joint[labels[i], z] += theta[i, z] / n
    found = 0.0
    for i in range(n):
        found += math.log(sum(joint[labels[i], z] / joint[:, z].sum() * theta[i, z] for z in range(sources))) / n
    assert leep(*chances()) == pytest.approx(found, rel=1e-12)


def test_nce_is_that_of_the_definition():
    theta, labels = (z.numpy() for z in chances())
    told, found = theta.argmax(1), 0.0
    for y in set(labels.tolist()):
        for z in set(told.tolist()):
            both = np.mean((labels == y) & (told == z))
            found += both * math.log(both / np.mean(told == z)) if both else 0.0
    assert nce(*chances()) == pytest.approx(found, rel=1e-12)


def evidence(x: np.ndarray, y: np.ndarray, alpha: float, beta: float) -> float:
    """Log density of labels, an image, under y ~ N(0, I / beta + x x^T / alpha)."""
    covariance = np.eye(len(x)) / beta + x @ x.T / alpha
    fit = y @ np.linalg.solve(covariance, y)
    return -(np.linalg.slogdet(2 * math.pi * covariance)[1] + fit) / 2 / len(x)


def stopped(x: np.ndarray, y: np.ndarray) -> float:
    """The evidence where the fixed point is left, by inverted matrices."""
    alpha = beta = 1.0
    for _ in range(11):
        inverse = np.linalg.inv(alpha * np.eye(x.shape[1]) + beta * x.T @ x)
        m = beta * inverse @ x.T @ y
        gamma = x.shape[1] - alpha * np.trace(inverse)
        before, alpha, beta = alpha / beta, gamma / (m @ m), (len(x) - gamma) / ((y - x @ m) ** 2).sum()
        if abs(alpha / beta - before) / before < 0.01:
            break
    last = beta * np.linalg.inv(beta * (before * np.eye(x.shape[1]) + x.T @ x)) @ x.T @ y  # of the ratio before
    fit = beta * ((y - x @ last) ** 2).sum() + alpha * last @ last
    precision = np.linalg.slogdet(alpha * np.eye(x.shape[1]) + beta * x.T @ x)[1]
    known = x.shape[1] * math.log(alpha) + len(x) * math.log(beta) - precision - len(x) * math.log(2 * math.pi)
    return (known - fit) / 2 / len(x)


@sizes
def test_logme_is_that_of_the_fixed_point_and_its_stopping_rule(count, units):
    x, labels = drawn(count, units)
    hot = F.one_hot(labels).double().numpy()
    assert logme(x, labels) == pytest.approx(np.mean([stopped(x.numpy(), y) for y in hot.T]), rel=1e-6)


@pytest.mark.parametrize(("count", "units"), SHAPES[:2])
def test_logme_is_near_the_largest_evidence(count, units):
    """Found by a search over both precisions."""
    x, labels = drawn(count, units)
    found = []
    for y in F.one_hot(labels).double().numpy().T:
        cost = lambda logs, y=y: -evidence(x.numpy(), y, *np.exp(logs))  # noqa: E731
        found.append(-minimize(cost, (0.0, 0.0), method="Nelder-Mead", options={"maxiter": 200}).fun)
    assert np.mean(found) - 0.02 < logme(x, labels) <= np.mean(found) + 1e-9


def covariances(x: np.ndarray, labels: np.ndarray) -> tuple:
    """Of features and of class means, each divided by N."""
    means = np.stack([x[labels == label].mean(0) for label in labels])
    return np.cov(x.T, bias=True), np.cov(means.T, bias=True)


@sizes
def test_the_h_scores_are_those_of_explicit_inverses(count, units):
    x, labels = drawn(count, units)
    whole, between = covariances(x.numpy(), labels.numpy())
    assert h_score(x, labels) == pytest.approx(np.trace(np.linalg.pinv(whole, rcond=1e-12) @ between), rel=1e-6)
    share = ledoit_wolf_shrinkage(x.numpy())
    shrunk = (1 - share) * whole + share * np.trace(whole) / units * np.eye(units)
    wanted = np.trace(np.linalg.inv(shrunk) @ ((1 - share) * between))
    assert 0 < share < 1
    assert regularised_h_score(x, labels) == pytest.approx(wanted, rel=1e-9)


@sizes
def test_transrate_is_that_of_the_definition(count, units):
    x, labels = drawn(count, units)

    def rate(z: np.ndarray) -> float:
        return np.linalg.slogdet(np.eye(units) + z.T @ z / (len(z) * 1e-4))[1] / 2

    z = x.numpy() - x.numpy().mean(0)
    wanted = rate(z) - np.mean([rate(z[labels.numpy() == label]) for label in range(4)])
    assert transrate(x, labels) == pytest.approx(wanted, rel=1e-9)


# ----------------------------------------------------------------------------------------------------- known answers


def test_a_head_that_knows_the_labels_has_the_largest_scores():
    """Though it calls them otherwise; and one that says the same of all images knows their frequencies only."""
    labels = chances()[1]
    sure = F.one_hot(torch.tensor([4, 0, 3, 1])[labels], 6).double()
    assert leep(sure, labels) == nce(sure, labels) == 0
    frequency = labels.bincount() / len(labels)
    blind = torch.full((len(labels), 6), 1 / 6).double()
    for score in (leep, nce):
        assert score(blind, labels) == pytest.approx((frequency * frequency.log()).sum().item(), rel=1e-6)


def test_features_that_are_the_labels_have_the_largest_scores():
    labels = drawn(60, 5)[1]
    hot = F.one_hot(labels).double()
    assert h_score(hot, labels) == pytest.approx(3, rel=1e-9)
    assert regularised_h_score(hot, labels) == pytest.approx(3, abs=0.5)  # shrunk, so below
    for score in (logme, h_score, regularised_h_score, transrate):
        other = score(hot, labels[torch.randperm(60, generator=torch.Generator().manual_seed(0))])
        assert score(hot, labels) > other + 0.5


def test_what_is_apart_scores_more_than_what_is_not():
    for name in OF_FEATURES:
        near, far = (getattr(transferability, name)(*drawn(120, 6, apart=apart)) for apart in (0.1, 2.0))
        assert far > near, name


def test_features_of_one_spread_in_all_directions_are_not_shrunk():
    """Nothing tells how far from a sphere they are."""
    assert regularised_h_score(torch.tensor([[0.0], [0.0], [1.0], [1.0]]), torch.tensor([0, 0, 1, 1])) == 1


@each
def test_names_of_classes_do_not_matter(name):
    """Nor that they begin at 0, nor which image comes first."""
    x, labels = given(name)
    score = getattr(transferability, name)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(1))
    renamed = torch.tensor([17, 3, 9, 4])[labels]
    assert score(x[order], renamed[order]) == pytest.approx(score(x, labels), rel=1e-9)


@pytest.mark.parametrize("name", OF_FEATURES)
def test_a_rotation_of_the_features_does_not_matter(name):
    x, labels = drawn(50, 8)
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).double())[0]
    score = getattr(transferability, name)
    assert score(x @ turn, labels) == pytest.approx(score(x, labels), rel=1e-8)


@each
def test_single_precision_will_do(name):
    x, labels = given(name)
    score = getattr(transferability, name)
    assert score(x.float(), labels) == pytest.approx(score(x, labels), rel=1e-4)


@each
def test_bad_input_is_named(name):
    x, labels = given(name)
    score = getattr(transferability, name)
    with pytest.raises(UserError, match=r"^classes \(=1\): at least two must be there$"):
        score(x, torch.zeros_like(labels))
    with pytest.raises(UserError, match=r"\(=nan or inf\): must be finite numbers$"):
        score(torch.where(x == x[3, 2], torch.nan, x), labels)
    with pytest.raises(UserError, match=r"must have a row for each label$"):
        score(x[1:], labels)
    with pytest.raises(UserError, match=r"labels \(=\(.*, 3\)\): must be one an image; several, or boxes, are not"):
        score(x, torch.zeros(len(x), 3))


@pytest.mark.parametrize("name", ["h_score", "regularised_h_score"])
def test_features_that_are_all_alike_are_refused(name):
    with pytest.raises(UserError, match=r"features \(=constant\): must differ between images"):
        getattr(transferability, name)(torch.ones(6, 3), torch.arange(6) % 2)
