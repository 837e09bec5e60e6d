"""Linear classifiers on features: every penalty in one batched solve, on any device.

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

from .lbfgs import HISTORY, Evaluate, minimise, side_by_side

ALIGN = 16  # columns are padded to a multiple: matrix products of odd widths are a third slower
MEMORY = 1 << 30  # bytes that the problems solved at once may need

Floats = tuple[float, ...]
Linear = tuple[Tensor, Tensor]  # weights and biases
Prepare = Callable[[Tensor, Tensor], tuple[Evaluate, Tensor, Tensor]]


def exact(x: Tensor) -> Tensor:
    """Return numbers as float64: on the CPU where their device has none."""
    return _home(x).double()


def _home(x: Tensor) -> Tensor:
    return x.cpu() if x.device.type == "mps" else x


# --------------------------------------------------------------------------------------------------------------- ridge


def ridge(x: Tensor, labels: Tensor, classes: int, strengths: Floats) -> Linear:
    """Solve one-vs-all ridge regression on one-hot labels for every penalty at once, in closed form.

    One eigendecomposition of the features' covariance serves all penalties (Hastie, Tibshirani and Friedman 2009, sec.
    3.4.1). Where there are fewer images than features, the images' Gram matrix is decomposed instead (op.
    cit., sec. 18.3.5), which is cheaper by the cube of their ratio.

    Parameters
    ----------
    x : Tensor, shape (N, D)
    labels : Tensor of int64, shape (N,)
        Or of float, shape (N, classes): 1 and 0, and NaN, which counts as the class's mean.
    classes : int
    strengths : tuple of float, length S
        Penalties, as multiples of the mean eigenvalue of the covariance of `x`.

    Returns
    -------
    weights : Tensor of float64, shape (S, D, classes)
    biases : Tensor of float64, shape (S, classes)
    """
    x, y = exact(x), exact(labels if labels.ndim > 1 else nn.functional.one_hot(labels, classes))
    y = torch.where(y.isnan(), y.nanmean(0), y).nan_to_num(0)  # of a class of which nothing is known: 0
    x_mean, y_mean, wide = x.mean(0), y.mean(0), len(x) < x.shape[1]
    x, y = x - x_mean, y - y_mean
    values, vectors = torch.linalg.eigh((x @ x.T if wide else x.T @ x) / len(x))
    penalties = values.new_tensor(strengths)[:, None] * (values.sum() / x.shape[1]).clamp_min(1e-12)
    shrunk = (1 / (values.clamp_min(0) + penalties))[:, :, None]
    if wide:
        weights = x.T @ (vectors @ (shrunk * (vectors.T @ y))) / len(x)
    else:
        weights = vectors @ (shrunk * (vectors.T @ (x.T @ y) / len(x)))
    return weights, y_mean - x_mean @ weights


# ----------------------------------------------------------------------------------------------- softmax, squared hinge


def logistic(x: Tensor, labels: Tensor, classes: int, strengths: Floats, **until) -> Linear:
    """Solve softmax (multinomial logistic) regression for every penalty at once, by L-BFGS.

    Where images have several labels, it is logistic regression of each class by itself, without the images of which
    nothing is asked (NaN).

    Parameters
    ----------
    x, labels, classes, strengths
        As in `ridge`; the module says what a strength is in terms of scikit-learn's C.
    tolerance : float, by default 3e-4
        A classifier is finished when the decrease that its next step promises is this small a part of its objective
        (the Newton decrement: Boyd and Vandenberghe 2004, sec. 9.5.1). What is left then is some ten times that.
    iterations : int, by default 100
        At most so many; weak penalties on separable images may need more.

    Returns
    -------
    weights : Tensor of float32, shape (S, D, classes)
    biases : Tensor of float32, shape (S, classes)
    """
    if labels.ndim > 1:
        return _minimise(_binary_cross_entropy, x, labels, classes, strengths, **until)
    weights, biases = _minimise(_cross_entropy, x, labels, classes, strengths, **until)
    return weights, biases - biases.mean(-1, keepdim=True)  # what all classes share changes nothing


def _cross_entropy(right: Tensor, weight: Tensor) -> tuple[Evaluate, Tensor, Tensor]:
    index = right.argmax(2, keepdim=True)
    # an absent class: a tenth of an image
    share = (right * weight).sum(0, keepdim=True).clamp_min(0.1 * weight.amax())
    share = share / share.sum(2, keepdim=True)

    def evaluate(logits: Tensor) -> tuple[Tensor, Tensor]:
        chances = logits.softmax(2)
        found = chances.gather(2, index.expand(-1, logits.shape[1], -1))
        found = found.clamp_min(torch.finfo(logits.dtype).tiny)
        return -(found.log() * weight).sum((0, 2), keepdim=True), chances.sub_(right)

    return evaluate, share.log(), share


def _binary_cross_entropy(right: Tensor, weight: Tensor) -> tuple[Evaluate, Tensor, Tensor]:
    asked, right = right.isfinite() * weight, right.nan_to_num(0)
    known, least = asked.sum(0, keepdim=True), 0.1 * weight.amax()  # an absent class: a tenth of an image
    share = ((right * asked).sum(0, keepdim=True) + least) / (known + 2 * least)

    def evaluate(logits: Tensor) -> tuple[Tensor, Tensor]:
        losses = nn.functional.softplus(logits) - logits * right
        return (losses * asked).sum(0, keepdim=True), (logits.sigmoid() - right) * (asked > 0)

    return evaluate, share.logit(), share * (1 - share)


def squared_hinge(x: Tensor, labels: Tensor, classes: int, strengths: Floats, **until) -> Linear:
    """Solve one-vs-rest support vector machines with the squared hinge loss (scikit-learn's ``LinearSVC``), by L-BFGS.

    The loss of an image is the sum over classes of max(0, 1 - y z)^2, with y = 1 for its own class and -1 for others.
    Each class and penalty is a problem of its own, with its own steps and its own end.

    Parameters
    ----------
    x, labels, classes, strengths, tolerance, iterations
        As in `logistic`.

    Returns
    -------
    weights, biases
        As in `logistic`.
    """
    return _minimise(_squared_hinge, x, labels, classes, strengths, **until)


def _squared_hinge(right: Tensor, weight: Tensor) -> tuple[Evaluate, Tensor, Tensor]:
    signs, known = (2 * right - 1).nan_to_num(0), right.isfinite()
    free = bool(known.all())

    def evaluate(logits: Tensor) -> tuple[Tensor, Tensor]:
        short = (1 - logits * signs).clamp_min_(0)
        short = short if free else short.mul_(known)
        return (short.square() * weight).sum(0, keepdim=True), short.mul_(-2 * signs)

    return evaluate, (signs * weight).sum(0, keepdim=True), torch.full_like(signs[:1], 2)


def _basis(x: Tensor) -> Tensor:
    """Return the eigenvectors of the covariance of centred features (N, D), as columns (D, min(N, D))."""
    if len(x) >= x.shape[1]:
        return torch.linalg.eigh(x.T @ x)[1]
    span, inside = torch.linalg.qr(x.T)  # weights outside of the span of the images stay 0
    return span @ torch.linalg.eigh(inside @ inside.T)[1]


def _minimise(prepare: Prepare, x: Tensor, labels: Tensor, classes: int, strengths: Floats, **until) -> Linear:
    """Minimise a loss of x w + b plus penalties, for all strengths.

    The features are turned into the eigenbasis of their covariance and a constant is added. There the Hessian at the
    null model (weights 0, the best biases) is diagonal, and L-BFGS starts from its inverse: the first step is Newton's.

    Parameters
    ----------
    prepare : callable
        From the right answers (n, 1, classes), ones and zeros (NaN: nothing is asked), and the shares of the images in
        the mean (n, 1, 1) to: the function that maps logits (n, S, classes) to the mean loss of each problem, as
        `minimise` takes it, and the derivative of an image's loss by its logits; the biases of the null model, and the
        curvature of the loss there, both of shape (1, 1, classes).
    """
    x, labels, (count, units) = _home(x).float(), _home(labels), x.shape
    x_mean = x.mean(0)
    scale = (x - x_mean).square().mean().clamp_min(1e-12).sqrt()
    x = (x - x_mean) / scale
    basis = _basis(x)
    x = x @ basis

    constant = x.shape[1]
    # zeros beyond the rows and columns
    images = x.new_zeros(_aligned(count), _aligned(constant + 1))
    images[:count, :constant], images[:count, constant] = x, 1
    target, weight = x.new_zeros(len(images), 1, classes), x.new_zeros(len(images), 1, 1)
    target[:count, 0] = labels.float() if labels.ndim > 1 else nn.functional.one_hot(labels, classes).float()
    weight[:count] = 1 / count
    evaluate, bias, curvature = prepare(target, weight)
    mean = (images * weight[..., 0]).sum(0)
    spread = ((images - mean).square() * weight[..., 0]).sum(0)[:, None, None]  # (width, 1, 1)
    penalty = x.new_tensor(strengths)[:, None] * (spread.sum(0, keepdim=True) / units).clamp_min(1e-12 / scale.square())
    penalty = penalty.expand(len(spread), -1, -1).clone()  # (width, S, 1)
    penalty[constant], spread[constant] = 0, 1

    def objective(w: Tensor) -> tuple[Tensor, Tensor]:
        loss, residual = evaluate((images @ w.flatten(1)).unflatten(1, w.shape[1:]))
        return loss, (images.T @ residual.flatten(1)).unflatten(1, w.shape[1:]) * weight[:1]

    def solve(part: Tensor) -> Tensor:
        return minimise(objective, start.expand(-1, part.shape[1], -1), part, curvature * spread + part, **until)

    start = x.new_zeros(len(spread), 1, classes)
    start[constant] = bias[0]
    need = 4 * classes * (4 * len(images) + (2 * HISTORY + 8) * len(spread))  # bytes a strength
    w = side_by_side(solve, penalty, MEMORY // need).transpose(0, 1)  # (S, width, classes)
    weights = basis @ w[:, :constant] / scale
    return weights, w[:, constant] - x_mean @ weights


def _aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN
