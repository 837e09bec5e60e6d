"""Linear classifiers on features: every penalty and every fold in one batched solve, on any device.

All three solvers minimise, over weights w and biases b (which carry no penalty),

    mean over the images trained on of loss(x w + b) + strength * v / 2 * sum of w^2        (ridge: without the half)

with v the mean variance of the features of these images (the mean eigenvalue of their covariance): strengths mean the
same whatever the size, the number and the scale of the features. With A = strength * v * (number of images),
scikit-learn's ``Ridge(alpha=A)`` on one-hot labels, ``LogisticRegression(C=1 / A)`` and ``LinearSVC(C=1 / A)`` minimise
the same, but that ``LinearSVC`` puts the penalty on its biases too, and that ``LogisticRegression`` fits two classes by
one vector (there: C = 2 / A).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import check
from .lbfgs import HISTORY, Evaluate, minimise, side_by_side

ALIGN = 16  # columns are padded to a multiple: matrix products of odd widths are a third slower
MEMORY = 1 << 30  # bytes that the problems solved at once may need

Floats = tuple[float, ...]
Folds = "Tensor | None"
Linear = tuple[Tensor, Tensor]  # weights and biases
Prepare = Callable[[Tensor, Tensor], tuple[Evaluate, Tensor, Tensor]]


def exact(x: Tensor) -> Tensor:
    """Return numbers as float64: on the CPU where their device has none."""
    return _home(x).double()


def _home(x: Tensor | None) -> Tensor | None:
    return x.cpu() if x is not None and x.device.type == "mps" else x


def stratified(labels: Tensor, folds: int) -> Tensor:
    """Return the fold of each image, int64 of shape (N,): the images of each class are dealt out in turn.

    Raises
    ------
    UserError
        If there are fewer than two folds, or fewer images than folds.
    """
    check(2 <= folds <= len(labels), "folds", folds, f"must be 2 to {len(labels)}, the number of images")
    fold = torch.empty_like(labels)
    fold[labels.argsort(stable=True)] = torch.arange(len(labels), device=labels.device) % folds
    return fold


def held_out(x: Tensor, labels: Tensor, folds: Tensor, weights: Tensor, biases: Tensor) -> list[float]:
    """Return the accuracy of each strength on the images that each fold held out, averaged over folds.

    Parameters
    ----------
    x, labels, folds
        What the solver was given.
    weights, biases
        What it returned, shapes (S, F, D, classes) and (S, F, classes).
    """
    shares = []
    for fold in range(weights.shape[1]):
        out = folds == fold
        logits = x[out].to(weights) @ weights[:, fold] + biases[:, fold, None]
        shares.append(exact(logits.argmax(2).to(labels.device) == labels[out]).mean(1))
    return torch.stack(shares).mean(0).tolist()


def _trained_on(folds: Tensor | None, count: int) -> list[Tensor]:
    """Return for each fold the rows outside of it; without folds once all rows."""
    if folds is None:
        return [torch.arange(count)]
    sizes = folds.bincount().tolist()
    check(len(sizes) > 1 and all(sizes), "folds", len(sizes), "must be 2 or more, numbered from 0, each with images")
    return [(folds != fold).nonzero()[:, 0] for fold in range(len(sizes))]


# --------------------------------------------------------------------------------------------------------------- ridge


def ridge(x: Tensor, labels: Tensor, classes: int, strengths: Floats, folds: Tensor | None = None) -> Linear:
    """Solve one-vs-all ridge regression on one-hot labels for every penalty at once, in closed form.

    One eigendecomposition of the features' covariance serves all penalties (Hastie, Tibshirani and Friedman 2009, sec.
    3.4.1). With folds, each fold's moments are computed once and taken away from the total, and one batched
    eigendecomposition serves all. Where there are fewer images than half the features, the images' Gram matrix is
    decomposed instead (op. cit., sec. 18.3.5), which is cheaper by the cube of their ratio.

    Parameters
    ----------
    x : Tensor, shape (N, D)
    labels : Tensor of int64, shape (N,)
    classes : int
    strengths : tuple of float, length S
        Penalties, as multiples of the mean eigenvalue of the covariance of `x`.
    folds : Tensor of int64, shape (N,), optional
        The fold of each image, from 0 to F - 1: each of F classifiers a penalty is fitted to the images outside its
        fold.

    Returns
    -------
    weights : Tensor of float64, shape (S, D, classes); with folds (S, F, D, classes)
    biases : Tensor of float64, shape (S, classes); with folds (S, F, classes)

    Raises
    ------
    UserError
        If there are fewer than two folds, or one has no images.
    """
    x, y, folds = exact(x), exact(nn.functional.one_hot(labels, classes)), _home(folds)
    trained = _trained_on(folds, len(x))
    if 2 * min(map(len, trained)) < x.shape[1]:
        solved = [_dual_ridge(x[rows], y[rows], strengths) for rows in trained]
        return solved[0] if folds is None else tuple(torch.stack(parts, 1) for parts in zip(*solved, strict=True))
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    if folds is None:
        values, vectors = torch.linalg.eigh(x.T @ x / len(x))
        moment = vectors.T @ (x.T @ y) / len(x)  # (D, classes), in the eigenbasis
    else:
        parts = [(x[out], y[out]) for out in (folds == fold for fold in range(len(trained)))]
        # each image counts in the sums of its own fold alone
        sums = [(a.T @ a, a.T @ b, a.sum(0), b.sum(0)) for a, b in parts]
        square, cross, x_sum, y_sum = (each.sum(0) - each for each in map(torch.stack, zip(*sums, strict=True)))
        count = torch.tensor([[len(rows)] for rows in trained], dtype=x.dtype, device=x.device)
        x_off, y_off = x_sum / count, y_sum / count  # (F, D), (F, classes)
        values, vectors = torch.linalg.eigh(square / count[..., None] - x_off[:, :, None] * x_off[:, None])
        moment = vectors.mT @ (cross / count[..., None] - x_off[:, :, None] * y_off[:, None])
        x_mean, y_mean = x_mean + x_off, y_mean + y_off
    weights = vectors @ (_shrinkage(values, values.mean(-1), strengths)[..., None] * moment)
    return weights, y_mean - (x_mean[..., None, :] @ weights)[..., 0, :]


def _shrinkage(values: Tensor, spread: Tensor, strengths: Floats) -> Tensor:
    """Return 1 / (eigenvalue + penalty), of shape (S, *values.shape), from penalties relative to the `spread`."""
    relative = values.new_tensor(strengths).view(-1, *[1] * spread.ndim)
    return 1 / (values.clamp_min(0) + (relative * spread.clamp_min(1e-12))[..., None])


def _dual_ridge(x: Tensor, y: Tensor, strengths: Floats) -> Linear:
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    values, vectors = torch.linalg.eigh(x @ x.T / len(x))
    shrunk = _shrinkage(values, values.sum() / x.shape[1], strengths)
    weights = x.T @ (vectors @ (shrunk[:, :, None] * (vectors.T @ y))) / len(x)
    return weights, y_mean - x_mean @ weights


# ----------------------------------------------------------------------------------------------- softmax, squared hinge


def logistic(x: Tensor, labels: Tensor, classes: int, strengths: Floats, folds: Folds = None, **until) -> Linear:
    """Solve softmax (multinomial logistic) regression for every penalty and fold at once, by L-BFGS.

    Parameters
    ----------
    x, labels, classes, strengths, folds
        As in `ridge`; the module says what a strength is in terms of scikit-learn's C.
    tolerance : float, by default 3e-4
        A classifier is finished when the decrease that its next step promises is this small a part of its objective
        (the Newton decrement: Boyd and Vandenberghe 2004, sec. 9.5.1). What is left then is some ten times that.
    iterations : int, by default 100
        At most so many; weak penalties on separable images may need more.

    Returns
    -------
    weights : Tensor of float32, shape (S, D, classes); with folds (S, F, D, classes)
    biases : Tensor of float32, shape (S, classes); with folds (S, F, classes)

    Raises
    ------
    UserError
        If there are fewer than two folds, or one has no images.
    """
    weights, biases = _minimise(_cross_entropy, x, labels, classes, strengths, folds, **until)
    return weights, biases - biases.mean(-1, keepdim=True)  # what all classes share changes nothing


def _cross_entropy(right: Tensor, weight: Tensor) -> tuple[Evaluate, Tensor, Tensor]:
    index = right.argmax(3, keepdim=True)
    # an absent class: a tenth of an image
    share = (right * weight).sum(1, keepdim=True).clamp_min(0.1 * weight.amax())
    share = share / share.sum(3, keepdim=True)

    def evaluate(logits: Tensor) -> tuple[Tensor, Tensor]:
        chances = logits.softmax(3)
        found = chances.gather(3, index.expand(-1, -1, logits.shape[2], -1))
        found = found.clamp_min(torch.finfo(logits.dtype).tiny)
        return -(found.log() * weight).sum((1, 3), keepdim=True), chances.sub_(right)

    return evaluate, share.log(), share


def squared_hinge(x: Tensor, labels: Tensor, classes: int, strengths: Floats, folds: Folds = None, **until) -> Linear:
    """Solve one-vs-rest support vector machines with the squared hinge loss (scikit-learn's ``LinearSVC``), by L-BFGS.

    The loss of an image is the sum over classes of max(0, 1 - y z)^2, with y = 1 for its own class and -1 for others.
    Each class, penalty and fold is a problem of its own, with its own steps and its own end.

    Parameters
    ----------
    x, labels, classes, strengths, folds, tolerance, iterations
        As in `logistic`.

    Returns
    -------
    weights, biases
        As in `logistic`.

    Raises
    ------
    UserError
        If there are fewer than two folds, or one has no images.
    """
    return _minimise(_squared_hinge, x, labels, classes, strengths, folds, **until)


def _squared_hinge(right: Tensor, weight: Tensor) -> tuple[Evaluate, Tensor, Tensor]:
    signs = 2 * right - 1

    def evaluate(logits: Tensor) -> tuple[Tensor, Tensor]:
        short = (1 - logits * signs).clamp_min_(0)
        return (short.square() * weight).sum(1, keepdim=True), short.mul_(-2 * signs)

    return evaluate, (signs * weight).sum(1, keepdim=True), torch.full_like(signs[:, :1], 2)


def _basis(x: Tensor) -> Tensor:
    """Return the eigenvectors of the covariance of centred features (N, D), as columns (D, min(N, D))."""
    if len(x) >= x.shape[1]:
        return torch.linalg.eigh(x.T @ x)[1]
    span, inside = torch.linalg.qr(x.T)  # weights outside of the span of the images stay 0
    return span @ torch.linalg.eigh(inside @ inside.T)[1]


def _minimise(
    prepare: Prepare, x: Tensor, labels: Tensor, classes: int, strengths: Floats, folds: Folds, **until
) -> Linear:
    """Minimise a loss of x w + b plus penalties, for all strengths and folds.

    The features are turned into the eigenbasis of their covariance and a constant is added. There the Hessian at the
    null model (weights 0, the best biases) is diagonal, and L-BFGS starts from its inverse: the first step is Newton's.

    Parameters
    ----------
    prepare : callable
        From the right answers (F, n, 1, classes), ones and zeros, and the shares of the images in the mean (F, n, 1, 1)
        to: the function that maps logits (F, n, S, classes) to the mean loss of each problem, as `minimise` takes it,
        and the derivative of an image's loss by its logits; the biases of the null model, and the curvature of the loss
        there, both of shape (F, 1, 1, classes).
    """
    x, labels, folds, units = _home(x).float(), _home(labels), _home(folds), x.shape[1]
    x_mean = x.mean(0)
    scale = (x - x_mean).square().mean().clamp_min(1e-12).sqrt()
    x = (x - x_mean) / scale
    basis = _basis(x)
    x = x @ basis

    trained = [rows.to(x.device) for rows in _trained_on(folds, len(x))]
    constant, rows = x.shape[1], max(map(len, trained))
    # zeros beyond a fold's rows, and the columns
    images = x.new_zeros(len(trained), _aligned(rows), _aligned(constant + 1))
    target, weight = labels.new_zeros(images.shape[:2]), x.new_zeros(*images.shape[:2], 1, 1)
    for fold, rows in enumerate(trained):
        images[fold, : len(rows), :constant], images[fold, : len(rows), constant] = x[rows], 1
        target[fold, : len(rows)], weight[fold, : len(rows)] = labels[rows], 1 / len(rows)
    evaluate, bias, curvature = prepare(nn.functional.one_hot(target, classes).float()[:, :, None], weight)
    mean = (images * weight[..., 0]).sum(1, keepdim=True)
    spread = ((images - mean).square() * weight[..., 0]).sum(1)[..., None, None]  # (F, width, 1, 1)
    penalty = x.new_tensor(strengths)[:, None] * (spread.sum(1, keepdim=True) / units).clamp_min(1e-12 / scale.square())
    penalty = penalty.expand(-1, images.shape[2], -1, -1).clone()  # (F, width, S, 1)
    penalty[:, constant], spread[:, constant] = 0, 1

    def objective(w: Tensor) -> tuple[Tensor, Tensor]:
        loss, residual = evaluate((images @ w.flatten(2)).unflatten(2, w.shape[2:]))
        return loss, (images.mT @ residual.flatten(2)).unflatten(2, w.shape[2:]) * weight[:, :1]

    def solve(part: Tensor) -> Tensor:
        return minimise(objective, start.expand(-1, -1, part.shape[2], -1), part, curvature * spread + part, **until)

    start = x.new_zeros(len(images), images.shape[2], 1, classes)
    start[:, constant] = bias[:, 0]
    # bytes a strength
    need = 4 * len(images) * classes * (4 * images.shape[1] + (2 * HISTORY + 8) * images.shape[2])
    w = side_by_side(solve, penalty, MEMORY // need).permute(2, 0, 1, 3)  # (S, F, width, classes)
    weights = basis @ w[:, :, :constant] / scale
    biases = w[:, :, constant] - x_mean @ weights
    return (weights, biases) if folds is not None else (weights[:, 0], biases[:, 0])


def _aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN
