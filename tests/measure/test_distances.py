"""Distances between tasks against references written from their definitions, and where the answer is known."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.optimize import linear_sum_assignment
from sklearn.linear_model import Ridge
from small_world import small_world  # noqa: F401  (a fixture for the whole module)
from torch import nn
from torch.nn import functional as F

from transferlab.data.images import target_sample
from transferlab.errors import UserError
from transferlab.measure.distances import (
    emd_similarity,
    frechet,
    mmd,
    proxy_a_distance,
    task2vec,
    task2vec_distance,
)
from transferlab.nets.build import build
from transferlab.seeds import stream
from transferlab.specs import AlexNet, Subset, Target
from transferlab.train.read import batches, read
from transferlab.train.solvers import logistic


def drawn(count: int, units: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(count, units)) * rng.uniform(0.3, 2, units) + shift)


PAIRS = {
    "more images than features": (drawn(50, 5, 0), drawn(40, 5, 1, 0.7)),
    "fewer": (drawn(12, 30, 2), drawn(9, 30, 3, 0.4)),
}
each_pair = pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)


# ------------------------------------------------------------------------------------------------------------ Frechet


@each_pair
def test_frechet_is_that_of_matrix_square_roots(pair):
    x, y = (z.numpy() for z in pair)
    a, b = np.cov(x.T), np.cov(y.T)
    wanted = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet(*pair) == pytest.approx(wanted, rel=1e-5)
    assert frechet(*pair[::-1]) == pytest.approx(frechet(*pair), rel=1e-9)


def test_frechet_of_gaussians_whose_moments_are_known():
    """Exact moments: means 3 apart in one direction, deviations 1 and 2, and 1 and 5, along the axes."""
    white = drawn(40, 2, 0)
    white = (white - white.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(white.T.cov())).T
    other = white.flip(0) * torch.tensor([2.0, 5.0]) + torch.tensor([3.0, 0.0])
    assert frechet(white, other) == pytest.approx(3**2 + (2 - 1) ** 2 + (5 - 1) ** 2, rel=1e-9)


@each_pair
def test_frechet_of_a_set_and_itself_is_nothing(pair):
    assert frechet(pair[0], pair[0]) == pytest.approx(0, abs=1e-9)
    assert frechet(pair[0], pair[0] + 2) == pytest.approx(4 * pair[0].shape[1], rel=1e-9)


# ---------------------------------------------------------------------------------------------------------------- MMD


@each_pair
def test_mmd_is_that_of_the_definition(pair):
    x, y = (z.numpy() for z in pair)
    both = np.concatenate([x, y])
    apart = [np.linalg.norm(both[i] - both[j]) for i in range(len(both)) for j in range(len(both)) if i != j]
    width = sorted(apart)[(len(apart) - 1) // 2]  # the lower one, as torch has it: pairs come twice

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return math.exp(-(((a - b) ** 2).sum()) / (2 * width**2))

    n, m = len(x), len(y)
    within = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within += sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    wanted = within - 2 * sum(kernel(a, b) for a in x for b in y) / (n * m)
    assert mmd(*pair) == pytest.approx(wanted, rel=1e-9)


def test_mmd_is_unbiased():
    """Over many draws of one distribution the mean is 0, within three standard errors, and some are below it."""
    rows = torch.randn(200, 2, 12, 3, generator=torch.Generator().manual_seed(0)).double()
    found = np.array([mmd(*pair) for pair in rows])
    assert abs(found.mean()) < 3 * found.std() / math.sqrt(len(found))
    assert found.min() < 0
    assert mmd(rows[0, 0], rows[0, 1] + 3) > 10 * found.std()


def test_mmd_of_images_that_are_all_alike_is_nothing():
    assert mmd(torch.ones(4, 3), torch.ones(5, 3)) == pytest.approx(0, abs=1e-12)


# ---------------------------------------------------------------------------------------------------- proxy A-distance


@each_pair
def test_proxy_a_distance_is_that_of_a_ridge_regression_on_halves(pair):
    """By scikit-learn, whose penalty is the mean eigenvalue of the covariance times the number of images."""
    x, y = (z.numpy() for z in pair)
    draw = torch.Generator().manual_seed(stream(3, "domain halves"))
    order = [torch.randperm(len(z), generator=draw).numpy() for z in (x, y)]
    errors = []
    for held in (0, 1):
        rows = [np.array_split(o, 2) for o in order]
        seen = np.concatenate([x[rows[0][1 - held]], y[rows[1][1 - held]]])
        side = np.r_[-np.ones(len(rows[0][1 - held])), np.ones(len(rows[1][1 - held]))]
        penalty = np.trace(np.cov(seen.T, bias=True)) / seen.shape[1] * len(seen)
        fitted = Ridge(alpha=penalty).fit(seen, side)
        told = fitted.predict(x[rows[0][held]]) > 0, fitted.predict(y[rows[1][held]]) < 0
        errors.append((told[0].mean() + told[1].mean()) / 2)
    assert proxy_a_distance(*pair, seed=3) == pytest.approx(2 * (1 - 2 * np.mean(errors)), abs=1e-12)


def test_proxy_a_distance_of_what_is_apart_and_of_what_is_not():
    assert proxy_a_distance(drawn(40, 4, 0), drawn(40, 4, 1, 30.0), 0) == 2
    near = [proxy_a_distance(drawn(100, 2, seed), drawn(200, 2, seed)[100:], seed) for seed in range(20)]
    assert abs(np.mean(near)) < 3 * np.std(near) / math.sqrt(20)
    assert len(set(near)) > 1, "the seed draws the halves"


# ---------------------------------------------------------------------------------------------------------------- EMD


def test_emd_of_equally_frequent_classes_is_the_best_assignment():
    x, y = drawn(12, 3, 0), drawn(12, 3, 1, 1.0)
    labels = torch.arange(12) % 4
    means = [np.stack([z.numpy()[labels.numpy() == c].mean(0) for c in range(4)]) for z in (x, y)]
    cost = np.linalg.norm(means[0][:, None] - means[1][None], axis=2)
    wanted = cost[linear_sum_assignment(cost)].mean()
    assert emd_similarity(x, labels, y, labels) == pytest.approx(math.exp(-0.01 * wanted), rel=1e-9)
    renamed = torch.tensor([5, 2, 9, 0])[labels]
    assert emd_similarity(x, renamed, y, labels) == pytest.approx(math.exp(-0.01 * wanted), rel=1e-9)


def test_emd_of_classes_on_a_line_moves_mass_by_frequency():
    """Three quarters at 0 and a quarter at 4, to a half at 1 and a half at 3: 1/2 x 1 + 1/4 x 3 + 1/4 x 1."""
    x, y = torch.tensor([[0.0], [0.0], [0.0], [4.0]]), torch.tensor([[1.0], [3.0]])
    found = emd_similarity(x, torch.tensor([0, 0, 0, 1]), y, torch.tensor([0, 1]))
    assert found == pytest.approx(math.exp(-0.01 * 1.5), rel=1e-9)


def test_emd_of_more_classes_than_the_other_task_has():
    """One class there: everything moves to it."""
    x, y = drawn(9, 3, 0), drawn(6, 3, 1)
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2])
    far = sum(k / 9 * (x[labels == c].mean(0) - y.mean(0)).norm().item() for c, k in enumerate((4, 2, 3)))
    assert emd_similarity(x, labels, y, torch.zeros(6, dtype=torch.int64)) == pytest.approx(math.exp(-0.01 * far))


def test_emd_of_a_task_and_itself_is_nothing():
    x, labels = drawn(20, 5, 0), torch.arange(20) % 3
    order = torch.arange(19, -1, -1)
    assert emd_similarity(x, labels, x[order], labels[order]) == pytest.approx(1, abs=1e-9)


# ----------------------------------------------------------------------------------------------------------- Task2Vec

BACKBONE = AlexNet((4, 6, 6, 6, 6), (12, 10))
TASKS = [Target("synthetic:0", 24, Subset(classes=3)), Target("synthetic:1", 24, Subset(classes=3))]


def network() -> nn.Module:
    return build(BACKBONE, 24, 5, seed=0)


def task(number: int):
    return target_sample(TASKS[number], "train", 0)


def test_task2vec_is_that_of_the_definition():
    """One image and one filter at a time, by gradients that are put down in the network itself."""
    sample, net = task(0), network()
    features = read(network(), sample, ["fc7"])["fc7"]
    (weight,), (bias,) = logistic(features, sample.labels, 3, (1.0,))
    draw, (images,) = torch.Generator().manual_seed(stream(2, "task2vec labels")), batches(net, sample)
    sums = {n: torch.zeros(len(m.weight)).double() for n, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    for image in images:
        read_here = []
        with net.fc7.register_forward_hook(lambda _, inputs, output, kept=read_here: kept.append(output)):
            net(image[None])
        logits = read_here[0] @ weight + bias
        label = torch.multinomial(logits.softmax(1).detach(), 1, generator=draw)[0]
        net.zero_grad()
        F.cross_entropy(logits, label).backward()
        for name in sums:
            grad = net.get_submodule(name).weight.grad.double()
            sums[name] += torch.stack([one.square().mean() for one in grad]) / len(images)
    found = task2vec(network(), sample, "fc7", 2)
    assert found.shape == (28,)
    assert torch.allclose(found, torch.cat(list(sums.values())), rtol=1e-4)
    assert (found > 0).any()


def test_task2vec_leaves_the_network_as_it_is():
    net, before = network(), network().state_dict()
    task2vec(net, task(0), "fc7", 0)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_task2vec_leaves_out_what_lies_behind_the_layer():
    assert task2vec(network(), task(0), "conv3", 0).shape == (16,)


def test_a_task_is_no_distance_from_itself_and_some_from_another():
    one, other = (task2vec(network(), task(number), "fc7", 0) for number in (0, 1))
    assert task2vec_distance(one, one) == pytest.approx(0, abs=1e-12)
    assert task2vec_distance(one, other) > 1e-3
    assert task2vec_distance(one, other) == pytest.approx(task2vec_distance(other, one))


def test_task2vec_distance_is_that_of_the_definition():
    """Filters of no importance to either task are left out; what only one of them needs is far from the other."""
    a, b = torch.tensor([1.0, 3.0, 0.0]), torch.tensor([3.0, 1.0, 0.0])
    one, other = np.array([1 / 4, 3 / 4]), np.array([3 / 4, 1 / 4])
    wanted = 1 - one @ other / (np.linalg.norm(one) * np.linalg.norm(other))
    assert task2vec_distance(a, b) == pytest.approx(wanted, rel=1e-12)
    assert task2vec_distance(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])) == 1


# ----------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("distance", [frechet, mmd, lambda x, y: proxy_a_distance(x, y, 0)])
def test_bad_input_is_named(distance):
    with pytest.raises(UserError, match=r"features \(=\(1, 3\)\): must be two images or more"):
        distance(torch.ones(1, 3), torch.ones(4, 3))
    with pytest.raises(UserError, match=r"features \(=\(3, 4\)\): must be as many in both sets"):
        distance(torch.ones(4, 3), torch.ones(4, 4))
    with pytest.raises(UserError, match=r"features \(=nan or inf\): must be finite numbers"):
        distance(torch.ones(4, 3), torch.full((4, 3), math.inf))


def test_a_label_too_few_and_a_layer_that_is_not_there_are_named():
    with pytest.raises(UserError, match=r"labels \(=3\): must be one for each of 4 images"):
        emd_similarity(torch.ones(4, 2), torch.arange(3), torch.ones(4, 2), torch.arange(4))
    with pytest.raises(UserError, match=r"layer \(=fc77\): .*did you mean fc7\?"):
        task2vec(network(), task(0), "fc77", 0)
