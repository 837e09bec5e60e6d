"""Transferability scores: how well a source network should serve a target, from one pass over the target's images.

Logarithms are natural, so what is an information is in nats. All is computed in float64 on the CPU. Higher is better
for every score; only scores of the same target images may be compared, but for `leep` and `nce`, whose best is 0, and
the H-scores, whose best is the number of classes less one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import check

EPS = 1e-4  # squared distortion of `transrate`
CHANGE, ROUNDS = 0.01, 11  # `logme` ends at so small a change, or after so many rounds
SMALLEST = 1e-12  # what is divided by is at least so much


def leep(probabilities: Tensor, labels: Tensor) -> float:
    """Return the log expected empirical prediction: the mean log-likelihood of labels that are guessed from what the
    source's head says of an image, by how often the two occur together.

    Parameters
    ----------
    probabilities : Tensor, shape (N, Z)
        What the source's head says: its softmax.
    labels : Tensor of int64, shape (N,)
        Of the target.

    Returns
    -------
    float
        In nats, at most 0: the head's answer determines the label.

    Raises
    ------
    UserError
        If there is one class only, or a number that is not finite.

    References
    ----------
    Nguyen, Hassner, Seeger and Archambeau 2020, eq. 1-2.
    """
    given, labels = _checked("probabilities", probabilities, labels)
    joint = _sums(given, labels)  # (classes, Z)
    chance = joint / joint.sum(0).clamp_min(torch.finfo(joint.dtype).tiny)  # of a label, given the source's class
    return (given * chance[labels]).sum(1).log().mean().item()


def nce(probabilities: Tensor, labels: Tensor) -> float:
    """Return the negative conditional entropy of the target's labels given the source's most likely class.

    Parameters
    ----------
    probabilities : Tensor, shape (N, Z)
        Probabilities or logits of the source's head.
    labels : Tensor of int64, shape (N,)
        Of the target.

    Returns
    -------
    float
        In nats, at most 0: the source's class determines the label.

    Raises
    ------
    UserError
        As in `leep`.

    References
    ----------
    Tran, Nguyen and Hassner 2019, eq. 8; with the source's predictions for its labels, as usual.
    """
    given, labels = _checked("probabilities", probabilities, labels)
    joint = _sums(torch.nn.functional.one_hot(given.argmax(1), given.shape[1]).double(), labels) / len(labels)
    return (torch.special.entr(joint.sum(0)).sum() - torch.special.entr(joint).sum()).item()


def logme(features: Tensor, labels: Tensor) -> float:
    """Return the log of the largest evidence of Bayesian linear regression on one-hot labels, an image, mean over
    classes.

    The precisions of prior and noise are a fixed point, from 1 and 1: it is left when their ratio changes by less than
    1%, or after 11 rounds.

    Parameters
    ----------
    features : Tensor, shape (N, D)
        Not centred; N may be smaller than D.
    labels : Tensor of int64, shape (N,)

    Returns
    -------
    float
        In nats an image.

    Raises
    ------
    UserError
        As in `leep`.

    References
    ----------
    You, Liu, Wang and Long 2021, algorithm 1.
    """
    x, labels = _checked("features", features, labels)
    basis, sizes, _ = torch.linalg.svd(x, full_matrices=False)
    squared, hot = sizes.square(), torch.nn.functional.one_hot(labels).double()
    return sum(_evidence(squared, basis.T @ y, y.square().sum(), len(x)) for y in hot.T) / hot.shape[1]


def _evidence(squared: Tensor, y: Tensor, total: Tensor, count: int) -> float:
    """Return the log evidence an image, by the labels in the features' basis; what is outside of it is noise."""
    outside, ratio = total - y.square().sum(), 1.0
    for _ in range(ROUNDS):
        shrunk = squared / (squared + ratio)
        known = shrunk.sum()  # directions that the images determine
        weight = (squared * y.square() / (squared + ratio).square()).sum()
        residual = (((1 - shrunk) * y).square().sum() + outside).clamp_min(SMALLEST)
        alpha, beta = known / weight.clamp_min(SMALLEST), (count - known).clamp_min(SMALLEST) / residual
        before, ratio = ratio, alpha / beta
        if abs(ratio - before) < CHANGE * before:
            break
    found = count * (beta.log() - math.log(2 * math.pi)) - (1 + beta * squared / alpha).log().sum()
    return ((found - beta * residual - alpha * weight) / (2 * count)).item()


def h_score(features: Tensor, labels: Tensor) -> float:
    """Return the trace of the features' inverse covariance times the covariance of their class means.

    Parameters
    ----------
    features : Tensor, shape (N, D)
        With no more images than features the inverse is the pseudo-inverse: then nothing is left within the classes,
        and the score is at its largest if the features are in general position.
    labels : Tensor of int64, shape (N,)

    Returns
    -------
    float
        Between 0 and the number of classes less one.

    Raises
    ------
    UserError
        As in `leep`.

    References
    ----------
    Bao, Li, Huang, Zhang, Zheng, Zamir and Guibas 2019, definition 2.
    """
    _, between, _ = _between(features, labels)
    return between.sum().item()


def regularised_h_score(features: Tensor, labels: Tensor) -> float:
    """Return the H-score with the features' covariance shrunk after Ledoit and Wolf, and the other one by as much.

    Parameters
    ----------
    features : Tensor, shape (N, D)
        N may be smaller than D.
    labels : Tensor of int64, shape (N,)

    Returns
    -------
    float
        Both covariances are divided by N.

    Raises
    ------
    UserError
        As in `leep`.

    References
    ----------
    Ibrahim, Ponomareva and Mazumder 2022, eq. 7; Ledoit and Wolf 2004 for the shrinkage.
    """
    squared, between, x = _between(features, labels)
    (count, units), variances = x.shape, squared / len(x)
    mean = variances.sum() / units
    spread = variances.square().sum() - units * mean.square()  # of the eigenvalues
    noise = (x.square().sum(1).square().mean() - variances.square().sum()) / count
    share = torch.minimum(noise, spread) / spread if spread > SMALLEST * mean.square() else 0.0  # a sphere as it is
    kept = (1 - share) * variances
    return (kept * between / (kept + share * mean)).sum().item()


def _between(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the squared singular values of centred features, the share of each between classes, and the features."""
    x, labels = _checked("features", features, labels)
    x = x - x.mean(0)
    basis, sizes, _ = torch.linalg.svd(x, full_matrices=False)
    kept = sizes > torch.finfo(x.dtype).eps * max(x.shape) * sizes[0]  # as numpy's matrix_rank has it
    check(bool(kept.any()), "features", "constant", "must differ between images")
    basis = basis[:, kept]
    return sizes[kept].square(), (_sums(basis, labels).square() / labels.bincount()[:, None]).sum(0), x


def transrate(features: Tensor, labels: Tensor) -> float:
    """Return by how much coding the features takes more than coding them class by class.

    Parameters
    ----------
    features : Tensor, shape (N, D)
        N may be smaller than D. They are centred over all images, not within classes.
    labels : Tensor of int64, shape (N,)

    Returns
    -------
    float
        In nats an image, at a squared distortion of 1e-4. Every class weighs the same, whatever its size.

    Raises
    ------
    UserError
        As in `leep`.

    References
    ----------
    Huang, Huang, Rong, Yang and Wei 2022, eq. 4, with class weights as in the authors' code.
    """
    x, labels = _checked("features", features, labels)
    x = x - x.mean(0)
    rates = [_coding_rate(x[labels == label]) for label in labels.unique()]
    return _coding_rate(x) - sum(rates) / len(rates)


def _coding_rate(x: Tensor) -> float:
    """Return half the log determinant of I + x^T x / (N eps)."""
    return torch.linalg.svdvals(x).square().div(len(x) * EPS).log1p().sum().item() / 2


def _checked(name: str, given: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows as float64 and labels from 0 without gaps, on the CPU."""
    check(labels.ndim == 1, "labels", tuple(labels.shape), "must be one an image; several, or boxes, are not measured")
    given, (classes, labels) = given.detach().cpu().double(), labels.cpu().unique(return_inverse=True)
    check(given.ndim == 2 and len(given) == len(labels), name, tuple(given.shape), "must have a row for each label")
    check(bool(given.isfinite().all()), name, "nan or inf", "must be finite numbers")
    check(len(classes) > 1, "classes", len(classes), "at least two must be there")
    return given, labels


def _sums(rows: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of the rows of each class."""
    return rows.new_zeros(int(labels.max()) + 1, rows.shape[1]).index_add_(0, labels, rows)
