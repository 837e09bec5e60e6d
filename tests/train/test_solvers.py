"""Linear classifiers: as scikit-learn computes them, and batched as one by one."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import LinearSVC
from torch import nn

from transferlab.train import lbfgs, solvers
from transferlab.train.solvers import exact, logistic, ridge, squared_hinge

STRENGTHS = (1e-2, 0.1, 1.0, 100.0)
SOLVERS = {"ridge": ridge, "logistic": logistic, "squared-hinge": squared_hinge}
TO_THE_END = {"tolerance": 1e-12, "iterations": 400}
EXACT = {"ridge": {}, "logistic": TO_THE_END, "squared-hinge": TO_THE_END}
SHAPES = {"tall": (60, 8), "wide": (20, 60), "nearly square": (20, 24), "one feature": (6, 1)}

every_solver = pytest.mark.parametrize("name", SOLVERS)


def problem(
    count: int, width: int, classes: int = 3, offset: float = 5.0, noise: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    x = noise * torch.randn(count, width, generator=random) * torch.linspace(0.1, 3, width) + offset
    return x + torch.randn(classes, width, generator=random)[labels], labels


def spread(x: torch.Tensor) -> float:
    """Mean variance of features: what strengths are relative to."""
    return x.double().var(0, correction=0).mean().item()


def objective(name: str, x, labels, classes: int, strength: float, weights, biases) -> float:
    """What a solver minimises, for one classifier, in float64."""
    x, weights, biases = x.double(), weights.double(), biases.double()
    logits = x @ weights + biases
    target = nn.functional.one_hot(labels, classes).double()
    loss = {
        "ridge": (logits - target).square().sum(1) / 2,
        "logistic": nn.functional.cross_entropy(logits, labels, reduction="none"),
        "squared-hinge": (1 - logits * (2 * target - 1)).clamp_min(0).square().sum(1),
    }[name]
    return (loss.mean() + strength * spread(x) / 2 * weights.square().sum()).item()


def close(a: torch.Tensor, b: torch.Tensor, name: str) -> bool:
    """Whether numbers are equal, but for rounding and the tolerance of what is solved step by step."""
    return (
        torch.allclose(a, b, rtol=1e-7, atol=1e-9)
        if name == "ridge"
        else ((a - b).abs().max() < 2e-3 * b.abs().max() + 1e-6).item()
    )


# ---------------------------------------------------------------------------------------------------- as others compute


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("strength", [1e-4, *STRENGTHS])
def test_ridge_against_scikit_learn(shape, strength):
    x, labels = problem(*shape)
    weights, biases = ridge(x, labels, 3, (strength,))
    theirs = Ridge(alpha=strength * spread(x) * len(x)).fit(x.double().numpy(), np.eye(3)[labels.numpy()])
    assert weights.shape == (1, shape[1], 3)
    assert np.allclose(weights[0].T.numpy(), theirs.coef_, rtol=1e-6, atol=1e-9)
    assert np.allclose(biases[0].numpy(), theirs.intercept_, rtol=1e-6, atol=1e-9)


def standardised(x: torch.Tensor) -> torch.Tensor:
    """Features on which scikit-learn's solvers come to an end."""
    return (x - x.mean(0)) / x.std(0)


@pytest.mark.parametrize("shape", [(60, 8), (20, 30), (6, 1)])
@pytest.mark.parametrize("classes", [2, 3, 6])
def test_logistic_against_scikit_learn(shape, classes):
    x, labels = problem(*shape, classes)
    x = standardised(x)
    for strength in (0.01, 1.0):
        (weights,), (biases,) = logistic(x, labels, classes, (strength,), **EXACT["logistic"])
        penalty = strength * spread(x) * len(x)
        theirs = LogisticRegression(C=(2 if classes == 2 else 1) / penalty, solver="newton-cg", tol=1e-9, max_iter=1000)
        theirs.fit(x.double().numpy(), labels.numpy())
        coef, intercept = torch.from_numpy(theirs.coef_.T), torch.from_numpy(theirs.intercept_)
        if classes == 2:
            weights, biases = weights[:, 1:] - weights[:, :1], biases[1:] - biases[:1]
        assert close(weights.double(), coef, "logistic")
        assert close(biases.double(), intercept - intercept.mean() * (classes > 2), "logistic")


@pytest.mark.parametrize("shape", [(60, 8), (20, 30), (6, 1)])
@pytest.mark.parametrize("classes", [2, 5])
def test_squared_hinge_against_scikit_learn(shape, classes):
    x, labels = problem(*shape, classes)
    x = standardised(x)
    for strength in (0.01, 1.0):
        (weights,), (biases,) = squared_hinge(x, labels, classes, (strength,), **EXACT["squared-hinge"])
        # a large scale of the intercept leaves next to no penalty on it
        theirs = LinearSVC(
            C=1 / (strength * spread(x) * len(x)), dual=False, intercept_scaling=100, tol=1e-10, max_iter=10_000
        )
        theirs.fit(x.double().numpy(), labels.numpy())
        if classes == 2:
            weights, biases = weights[:, 1:], biases[1:]
        assert close(weights.double(), torch.from_numpy(theirs.coef_.T), "squared-hinge")
        assert close(biases.double(), torch.from_numpy(theirs.intercept_), "squared-hinge")


GRID = tuple(10.0**p for p in range(-3, 3))


@pytest.fixture(scope="module")
def overlapping():
    """Ten classes that overlap: training images, and enough test images that 0.2 points are eight of them."""
    random = torch.Generator().manual_seed(1)
    labels = torch.arange(5000) % 10
    x = 0.4 * torch.randn(10, 48, generator=random)[labels] + torch.randn(5000, 48, generator=random)
    return x[:1000], labels[:1000], x[1000:], labels[1000:]


def right(x, labels, weights, biases) -> list[float]:
    logits = x.to(weights.dtype) @ weights + biases[:, None]
    return (logits.argmax(2) == labels).double().mean(1).tolist()


def test_as_accurate_as_scikit_learn_over_its_grid(overlapping):
    """The best of a grid is within 0.2 points of the best LinearSVC of its own grid, or above it."""
    x, labels, test, answers = overlapping
    theirs = [
        LinearSVC(C=1 / (s * spread(x) * len(x)), max_iter=10_000).fit(x, labels).score(test, answers) for s in GRID
    ]
    for solve in SOLVERS.values():
        assert max(right(test, answers, *solve(x, labels, 10, GRID))) >= max(theirs) - 0.002


def test_each_classifier_is_as_accurate_as_its_twin(overlapping):
    x, labels, test, answers = overlapping
    for strength in (0.1, 1.0, 10.0):
        inverse = 1 / (strength * spread(x) * len(x))
        for solve, twin in (
            (logistic, LogisticRegression(C=inverse)),
            (squared_hinge, LinearSVC(C=inverse, intercept_scaling=10)),
        ):
            (found,) = right(test, answers, *solve(x, labels, 10, (strength,)))
            assert found == pytest.approx(twin.fit(x, labels).score(test, answers), abs=0.002)


@pytest.mark.parametrize("name", ["logistic", "squared-hinge"])
def test_the_default_tolerance_is_near_the_optimum(name, overlapping):
    x, labels, *_ = overlapping
    fast, best = SOLVERS[name](x, labels, 10, GRID), SOLVERS[name](x, labels, 10, GRID, **EXACT[name])
    for i, strength in enumerate(GRID):
        least = objective(name, x, labels, 10, strength, best[0][i], best[1][i])
        assert least <= objective(name, x, labels, 10, strength, fast[0][i], fast[1][i]) < 1.003 * least


@every_solver
def test_nothing_near_is_better(name, overlapping):
    x, labels, *_ = overlapping
    random = torch.Generator().manual_seed(2)
    for strength in (1e-3, 1.0):
        (weights,), (biases,) = SOLVERS[name](x, labels, 10, (strength,), **EXACT[name])
        least = objective(name, x, labels, 10, strength, weights, biases)
        for _ in range(5):
            near = [v + 0.01 * v.abs().max() * torch.randn(v.shape, generator=random) for v in (weights, biases)]
            assert objective(name, x, labels, 10, strength, *near) > least


# ------------------------------------------------------------------------------------------- batched as one by one


@every_solver
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_all_penalties_at_once(name, shape):
    x, labels = problem(*shape)
    weights, biases = SOLVERS[name](x, labels, 3, STRENGTHS, **EXACT[name])
    assert (weights.shape, biases.shape) == ((4, shape[1], 3), (4, 3))
    assert weights.dtype == biases.dtype == (torch.float64 if name == "ridge" else torch.float32)
    for i, strength in enumerate(STRENGTHS):
        w, b = SOLVERS[name](x, labels, 3, (strength,), **EXACT[name])
        assert close(weights[i], w[0], name)
        assert close(biases[i], b[0], name)
    norms = weights.flatten(1).norm(dim=1).tolist()
    assert norms == sorted(norms, reverse=True)


@every_solver
def test_the_order_of_penalties_does_not_matter(name):
    x, labels = problem(60, 8)
    mixed = (100.0, 1e-2, 1.0, 0.1)
    order = sorted(range(4), key=mixed.__getitem__)
    weights, biases = SOLVERS[name](x, labels, 3, mixed, **EXACT[name])
    w, b = SOLVERS[name](x, labels, 3, tuple(sorted(mixed)), **EXACT[name])
    assert close(weights[order], w, name)
    assert close(biases[order], b, name)


@pytest.mark.parametrize("times", [1e-3, 0.1, 1.0, 10.0, 1e3])
def test_steps_that_are_too_long_or_too_short(times):
    """The metric says how far to go at first; steps mend what it gets wrong, for each problem by itself."""
    width = torch.logspace(-1, 1, 6)[:, None, None]

    def objective(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        away = width * (w - 3)
        return (1 + away.square()).sqrt().sum(0, keepdim=True), width * away / (1 + away.square()).sqrt()

    metric = times * width.square().expand(-1, 3, 1)
    found = lbfgs.minimise(objective, torch.zeros(6, 3, 4), torch.zeros(6, 3, 1), metric, 1e-9, 200)
    assert torch.allclose(found, torch.full_like(found, 3), atol=1e-2)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_first_step_is_newtons(shape):
    """Under strong penalties, where no image is beyond its margin, the squared hinge is a parabola."""
    x, labels = problem(*shape)
    (one, _), (many, _) = (squared_hinge(x, labels, 3, (100.0,), iterations=n) for n in (1, 100))
    assert torch.allclose(one, many, rtol=1e-4, atol=1e-7)
    assert many.abs().max() > 1e-3


@every_solver
def test_wide_problems_are_solved_in_the_span_of_their_images(name, monkeypatch):
    """What is decomposed is as wide as there are images, not as there are features."""
    x, labels = problem(20, 60)
    widths, really = [], torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda a: (widths.append(a.shape[-1]), really(a))[1])
    SOLVERS[name](x, labels, 3, STRENGTHS)
    assert max(widths) <= 20


def test_a_strength_at_a_time_where_memory_is_short(monkeypatch):
    x, labels = problem(60, 8)
    for solve in (logistic, squared_hinge):
        together = solve(x, labels, 3, STRENGTHS, **TO_THE_END)
        with monkeypatch.context() as patch:
            patch.setattr(solvers, "MEMORY", 1)
            apart = solve(x, labels, 3, STRENGTHS, **TO_THE_END)
        assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(together, apart, strict=True))


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_several_threads_share_the_strengths(threads):
    x, labels = problem(60, 8)
    alone = [solve(x, labels, 3, STRENGTHS, **TO_THE_END) for solve in (logistic, squared_hinge)]
    torch.set_num_threads(threads)
    try:
        together = [solve(x, labels, 3, STRENGTHS, **TO_THE_END) for solve in (logistic, squared_hinge)]
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(1)
    for a, b in zip(alone, together, strict=True):
        assert all(torch.allclose(p, q, rtol=1e-3, atol=1e-5) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("count", "most", "threads", "sizes"),
    [
        (5, 9, 1, [5]),
        (5, 2, 1, [2, 2, 1]),
        (5, 0, 1, [1, 1, 1, 1, 1]),
        (5, 9, 2, [3, 2]),
        (8, 4, 2, [2, 2, 2, 2]),
        (5, 1, 2, [1, 1, 1, 1, 1]),
        (2, 9, 4, [1, 1]),
    ],
)
def test_how_strengths_are_divided(count, most, threads, sizes, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # what is asked for above is not what there was
    seen = []

    def solve(part: torch.Tensor) -> torch.Tensor:
        seen.append(part.shape[1])
        return -part

    strengths = torch.arange(float(count)).view(1, count, 1)
    assert torch.equal(lbfgs.side_by_side(solve, strengths, most), -strengths)
    assert sorted(seen, reverse=True) == sizes


def test_a_finished_classifier_stays_as_it_is(overlapping):
    """Strong penalties are done after a few iterations, whatever the others need."""
    x, labels, *_ = overlapping
    for solve in (logistic, squared_hinge):
        few, many = (solve(x, labels, 10, (1e-4, 100.0), iterations=n)[0] for n in (10, 100))
        assert torch.equal(few[1], many[1])
        assert not torch.equal(few[0], many[0])


def test_no_iteration_is_the_null_model():
    """The best that biases alone can do."""
    x, labels = problem(60, 8)
    share = torch.tensor([2 / 3, 1 / 3])
    for solve, expected in ((logistic, share.log() - share.log().mean()), (squared_hinge, 2 * share - 1)):
        weights, biases = solve(x, labels // 2, 2, STRENGTHS, iterations=0)
        assert (weights == 0).all()
        assert torch.allclose(biases, expected.expand(4, 2), atol=1e-5)


def test_ridge_is_what_it_always_was():
    """But for rounding: records of probes keep their meaning."""
    for shape in ((60, 8), (20, 40), (6, 1), (100, 64), (20, 90)):
        x, labels = problem(*shape)
        wide, y = x.double(), nn.functional.one_hot(labels, 3).double()
        centred = wide - wide.mean(0)
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
        moment = vectors.T @ (centred.T @ (y - y.mean(0))) / len(x)
        penalties = torch.tensor(STRENGTHS, dtype=torch.float64) * values.mean()
        expected = vectors @ ((1 / (values.clamp_min(0) + penalties[:, None]))[:, :, None] * moment)
        weights, biases = ridge(x, labels, 3, STRENGTHS)
        assert torch.allclose(weights, expected, rtol=1e-11, atol=1e-13)
        assert torch.allclose(biases, y.mean(0) - wide.mean(0) @ expected, rtol=1e-11, atol=1e-12)


# ---------------------------------------------------------------------------------------------------- unusual features


@every_solver
def test_penalties_are_relative_to_the_size_of_the_features(name):
    x, labels = problem(30, 7)
    (weights, biases), (smaller, same) = (
        SOLVERS[name](x * size, labels, 3, (0.1,), **EXACT[name]) for size in (1, 1024)
    )
    assert close(weights, 1024 * smaller, name)
    assert close(biases, same, name)


@every_solver
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_features_that_say_nothing(name, value):
    """All features are constant: every class gets its share, and a class without images next to nothing."""
    weights, biases = SOLVERS[name](torch.full((9, 4), value), torch.tensor([0] * 6 + [1] * 3), 3, STRENGTHS)
    assert (weights == 0).all()
    shares = biases.softmax(1) if name == "logistic" else (biases + 1) / 2 if name == "squared-hinge" else biases
    assert torch.allclose(shares.double(), torch.tensor([2 / 3, 1 / 3, 0]).double().expand(4, 3), atol=1e-3)


@every_solver
def test_no_features_at_all(name):
    weights, biases = SOLVERS[name](torch.empty(9, 0), torch.tensor([0] * 6 + [1] * 3), 2, STRENGTHS)
    assert weights.shape == (4, 0, 2)
    assert (biases[:, 0] > biases[:, 1]).all()


@every_solver
def test_a_single_image(name):
    weights, biases = SOLVERS[name](torch.ones(1, 2), torch.tensor([1]), 2, (1.0,))
    assert (weights == 0).all()
    assert biases.isfinite().all()
    assert biases[0, 1] > biases[0, 0]


@every_solver
def test_a_class_without_images_is_never_the_answer(name):
    x, labels = problem(20, 4, classes=2)
    weights, biases = SOLVERS[name](x, labels, 3, STRENGTHS)
    assert ((x.to(weights.dtype) @ weights + biases[:, None]).argmax(2) < 2).all()


@every_solver
def test_equal_features_share_the_weight(name):
    x, labels = problem(30, 1)
    weights, _ = SOLVERS[name](x.expand(30, 5), labels, 3, STRENGTHS, **EXACT[name])
    assert torch.allclose(weights, weights[:, :1].expand(-1, 5, -1), rtol=1e-3, atol=1e-5)


@every_solver
def test_features_far_from_zero(name):
    x, labels = problem(60, 8)
    (near, _), (far, _) = (SOLVERS[name](x + offset, labels, 3, STRENGTHS, **EXACT[name]) for offset in (0, 1000))
    assert torch.allclose(near, far, rtol=2e-2, atol=1e-3)


@every_solver
def test_what_is_given_stays_as_it_is(name):
    x, labels = problem(20, 4)
    before = [v.clone() for v in (x, labels)]
    SOLVERS[name](x, labels, 3, STRENGTHS)
    assert all(torch.equal(a, b) for a, b in zip(before, (x, labels), strict=True))


# -------------------------------------------------------------------------------------------------------------- devices


@pytest.mark.parametrize(("device", "went"), [("mps", True), ("cpu", False), ("cuda", False)])
def test_float64_is_the_cpus_where_the_device_has_none(device, went):
    class Elsewhere:
        def __init__(self, kind: str) -> None:
            self.device = SimpleNamespace(type=kind)

        def cpu(self) -> "Elsewhere":
            return Elsewhere("cpu")

        def double(self) -> str:
            return self.device.type

    assert exact(Elsewhere(device)) == ("cpu" if went else device)
    assert exact(torch.ones(2)).dtype == torch.float64


# ------------------------------------------------------------------------------------------------- several labels


def several(count: int = 80, width: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of none to three classes, and NaN in places."""
    random = torch.Generator().manual_seed(1)
    x = torch.randn(count, width, generator=random) * torch.linspace(0.5, 2, width) + 3
    labels = ((x - 3) @ torch.randn(width, 3, generator=random) + torch.randn(count, 3, generator=random) > 1).float()
    labels[torch.rand(count, 3, generator=random) < 0.1] = torch.nan
    return x, labels


TWINS = {
    "logistic": lambda c: LogisticRegression(C=c, tol=1e-10, max_iter=2000),
    "squared-hinge": lambda c: LinearSVC(C=c, tol=1e-10, max_iter=100_000, intercept_scaling=100.0),
}


@pytest.mark.parametrize("name", TWINS)
def test_each_class_by_itself_against_scikit_learn(name):
    """Of the images of which something is asked; the mean is over all."""
    x, labels = several()
    weights, biases = SOLVERS[name](x, labels, 3, (0.1,), **TO_THE_END)
    for c in range(3):
        asked = ~labels[:, c].isnan()
        twin = TWINS[name](1 / (0.1 * spread(x) * len(x))).fit(x[asked].double(), labels[asked, c].long())
        wanted = torch.from_numpy(np.append(twin.coef_[0], twin.intercept_))
        found = torch.cat([weights[0, :, c], biases[0, c : c + 1]]).double()
        assert (found - wanted).abs().max() < 5e-3 * wanted.abs().max()


def test_ridge_of_several_labels_is_of_each_class_with_the_mean_where_nothing_is_known():
    x, labels = several()
    weights, biases = ridge(x, labels, 3, STRENGTHS)
    filled = torch.where(labels.isnan(), labels.nanmean(0), labels)
    for i, strength in enumerate(STRENGTHS):
        twin = Ridge(strength * spread(x) * len(x)).fit(x.double(), filled.double())
        assert close(weights[i].T, torch.from_numpy(twin.coef_), "ridge")
        assert close(biases[i], torch.from_numpy(twin.intercept_), "ridge")


@every_solver
def test_one_hot_labels_of_several_are_ridge_and_svm_of_one(name):
    x, labels = problem(60, 8)
    one, several_of = (SOLVERS[name](x, y, 3, STRENGTHS) for y in (labels, nn.functional.one_hot(labels, 3).float()))
    assert torch.equal(one[0], several_of[0]) == (name != "logistic")


@every_solver
def test_a_class_of_which_nothing_is_known_or_no_image_is(name):
    x, labels = several()
    labels[:, 1], labels[:, 2] = torch.nan, 0
    weights, biases = SOLVERS[name](x, labels, 3, STRENGTHS)
    assert weights.isfinite().all()
    assert biases.isfinite().all()
    answers = x.to(weights) @ weights + biases[:, None]
    assert (answers[..., 2] < (0.5 if name == "ridge" else 0)).all()
