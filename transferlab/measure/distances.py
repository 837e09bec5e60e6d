"""Distances between tasks, from features of equally many images of each: no network is trained for them.

All is computed in float64 on the CPU. They depend on the scale of the features, so those of different networks are not
comparable, and they have a bias that depends on the number of images, which should be the same for all targets.
"""

from __future__ import annotations

import math
from copy import deepcopy

import torch
from torch import Tensor, nn

from ..data.images import Sample
from ..errors import check
from ..nets.taps import reading
from ..seeds import stream
from ..train.read import batches, pooled, read
from ..train.solvers import logistic, ridge

RATE = 0.01  # of `emd_similarity`
STRENGTH = 1.0  # penalty of the classifiers, as a multiple of the mean eigenvalue of the features' covariance


def frechet(x: Tensor, y: Tensor) -> float:
    """Return the squared Frechet distance between the Gaussians that fit two sets of features.

    The trace of the root of the product of both covariances is the nuclear norm of the centred sets' inner products,
    over sqrt((N - 1)(M - 1)). So no covariance is inverted, and sets with fewer images than features are fine; their
    distance is biased upwards, the more the fewer images there are.

    Parameters
    ----------
    x, y : Tensor, shapes (N, D) and (M, D)
        N and M at least 2.

    Returns
    -------
    float
        In squared units of the features, 0 for equal means and covariances.

    Raises
    ------
    UserError
        If a set has fewer than two images, their widths differ, or a number is not finite.

    References
    ----------
    Dowson and Landau 1982; Heusel et al. 2017, eq. 6.
    """
    x, y = _checked(x, y)
    a, b = x - x.mean(0), y - y.mean(0)
    both = torch.linalg.svdvals(a @ b.T).sum() / ((len(x) - 1) * (len(y) - 1)) ** 0.5
    spread = a.square().sum() / (len(x) - 1) + b.square().sum() / (len(y) - 1)
    return ((x.mean(0) - y.mean(0)).square().sum() + spread - 2 * both).clamp_min(0).item()


def mmd(x: Tensor, y: Tensor) -> float:
    """Return the unbiased estimate of the squared maximum mean discrepancy, by a Gaussian kernel.

    Its width is the median distance between different images of both sets together. Unbiased: for two samples of one
    distribution it is 0 on average, so it may fall below 0.

    Parameters
    ----------
    x, y : Tensor, shapes (N, D) and (M, D)
        N and M at least 2.

    Returns
    -------
    float
        Without unit, at most 2.

    Raises
    ------
    UserError
        As in `frechet`.

    References
    ----------
    Gretton, Borgwardt, Rasch, Schoelkopf and Smola 2012, eq. 3 and sec. 8.
    """
    x, y = _checked(x, y)
    (n, m), both = (len(x), len(y)), torch.cat([x, y])
    apart = torch.cdist(both, both, compute_mode="donot_use_mm_for_euclid_dist")
    width = apart[~torch.eye(n + m, dtype=torch.bool)].median().clamp_min(torch.finfo(apart.dtype).tiny ** 0.25)
    kernel = (-(apart / width).square() / 2).exp()
    within = (kernel[:n, :n].sum() - n) / (n * (n - 1)) + (kernel[n:, n:].sum() - m) / (m * (m - 1))
    return (within - 2 * kernel[:n, n:].mean()).item()


def proxy_a_distance(x: Tensor, y: Tensor, seed: int) -> float:
    """Return 2 (1 - 2 err), with the error of a linear classifier that tells two sets apart, on images held out.

    Each half of the images is held out once. The classifier is a ridge regression.

    Parameters
    ----------
    x, y : Tensor, shapes (N, D) and (M, D)
        N and M at least 2.
    seed : int
        Of the halves.

    Returns
    -------
    float
        2 if no image is mistaken, about 0 if the sets cannot be told apart; chance may take it below.

    Raises
    ------
    UserError
        As in `frechet`.

    References
    ----------
    Ben-David, Blitzer, Crammer and Pereira 2007, sec. 5.
    """
    draw, both = torch.Generator().manual_seed(stream(seed, "domain halves")), _checked(x, y)
    halves = [[z[rows] for rows in torch.randperm(len(z), generator=draw).tensor_split(2)] for z in both]
    errors = []
    for known in (0, 1):
        (seen, domain), (asked, truth) = (_stacked([half[i] for half in halves]) for i in (known, 1 - known))
        weights, biases = ridge(seen, domain, 2, (STRENGTH,))
        wrong = (asked @ weights[0] + biases[0]).argmax(1) != truth
        errors.append(torch.stack([wrong[truth == of].double().mean() for of in (0, 1)]).mean())
    return (2 - 2 * sum(errors)).item()


def emd_similarity(x: Tensor, x_labels: Tensor, y: Tensor, y_labels: Tensor) -> float:
    """Return exp(-0.01 EMD), with the earth mover's distance between the class means of two tasks.

    A class weighs as much as its share of the images; moving costs the Euclidean distance. The transport is exact, by
    a linear programme.

    Parameters
    ----------
    x, y : Tensor, shapes (N, D) and (M, D)
    x_labels, y_labels : Tensor of int64, shapes (N,) and (M,)

    Returns
    -------
    float
        From 0 to 1: the class means are the same.

    Raises
    ------
    UserError
        As in `frechet`, or if a set has not a label for each image.

    References
    ----------
    Cui, Song, Sun, Howard and Belongie 2018, eq. 1-2.
    """
    from scipy.optimize import linprog  # takes a second
    from scipy.sparse import eye_array, kron, vstack

    x, y = _checked(x, y)
    (a, their), (b, other) = (_classes(*one) for one in ((x, x_labels), (y, y_labels)))
    cost = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").flatten().numpy()
    sent = kron(eye_array(len(a)), torch.ones(1, len(b)).numpy())
    come = kron(torch.ones(1, len(a)).numpy(), eye_array(len(b)))
    moved = linprog(cost, A_eq=vstack([sent, come]).tocsr(), b_eq=torch.cat([their, other]).numpy(), method="highs")
    check(moved.success, "transport", moved.message, "no plan was found")
    return math.exp(-RATE * moved.fun)


def task2vec(net: nn.Module, sample: Sample, tap: str, seed: int) -> Tensor:
    """Return the diagonal of the Fisher information of a network's convolutions about a task, mean over each filter.

    A head is fitted to the task first: softmax regression on the activations at a layer. Then an image at a time, a
    label is drawn from what this head says, and the gradient of its log-likelihood is squared.

    Parameters
    ----------
    net : Module
        Its weights stay as they are; it is left in evaluation mode.
    sample : Sample
        The task.
    tap : str
        The layer that the head reads, maps as their means; convolutions behind it have no part in it.
    seed : int
        Of the labels.

    Returns
    -------
    Tensor of float64, shape (filters,)
        Of all convolutions, in the order of the network's modules; on the CPU.

    Raises
    ------
    UserError
        If the network has no such tap, or no convolution before it.

    References
    ----------
    Achille et al. 2019, sec. 2-3.
    """
    features, draw = read(net, sample, [tap])[tap], torch.Generator().manual_seed(stream(seed, "task2vec labels"))
    (weight,), (bias,) = logistic(features, sample.labels, sample.classes, (STRENGTH,))
    net = deepcopy(net)  # what was read in inference mode has no gradients
    filters = [module.weight.requires_grad_(True) for module in net.modules() if isinstance(module, nn.Conv2d)]
    found: list[Tensor | None] = [None] * len(filters)
    with torch.enable_grad(), reading(net, [tap]) as seen:
        for image in (one for images in batches(net, sample) for one in images.split(1)):
            net(image)
            chances = (pooled(seen[tap].float()) @ weight + bias).log_softmax(1)
            label = torch.multinomial(chances.detach().exp().cpu(), 1, generator=draw)
            grads = torch.autograd.grad(chances[0, int(label)], filters, allow_unused=True)
            squared = [g if g is None else g.double().square().mean((1, 2, 3)) for g in grads]
            found = [b if a is None else a + b for a, b in zip(found, squared, strict=True)]
    known = [f.cpu() for f in found if f is not None]
    check(bool(known), "layer", tap, "must have a convolution before it")
    return torch.cat(known) / len(sample.labels)


def task2vec_distance(a: Tensor, b: Tensor) -> float:
    """Return the cosine distance between F_a / (F_a + F_b) and F_b / (F_a + F_b): 0 for tasks that are alike.

    Parameters
    ----------
    a, b : Tensor, shape (filters,)
        As `task2vec` makes them, of one network. Filters that matter to neither task are left out.

    References
    ----------
    Achille et al. 2019, sec. 4.
    """
    a, b = a.cpu().double(), b.cpu().double()
    kept = a + b > 0
    one, other = (z[kept] / (a + b)[kept] for z in (a, b))
    return 1 - nn.functional.cosine_similarity(one, other, dim=0).item()


def _checked(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return two sets of features as float64 on the CPU."""
    x, y = (z.detach().cpu().double() for z in (x, y))
    for z in (x, y):
        check(z.ndim == 2 and len(z) > 1, "features", tuple(z.shape), "must be two images or more, a row each")
        check(bool(z.isfinite().all()), "features", "nan or inf", "must be finite numbers")
    check(x.shape[1] == y.shape[1], "features", (x.shape[1], y.shape[1]), "must be as many in both sets")
    return x, y


def _stacked(sets: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return sets as one, and the number of the set that a row is of."""
    return torch.cat(sets), torch.arange(len(sets)).repeat_interleave(torch.tensor([len(z) for z in sets]))


def _classes(x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean of each class, and its share of the images."""
    check(len(labels) == len(x), "labels", len(labels), f"must be one for each of {len(x)} images")
    _, labels, counts = labels.cpu().unique(return_inverse=True, return_counts=True)
    sums = x.new_zeros(len(counts), x.shape[1]).index_add_(0, labels, x)
    return sums / counts[:, None], counts.double() / len(x)
