"""Numbers that say what features know, and how far they have moved."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import check
from ..specs.serial import components_of
from ..train.solvers import exact

ROWS = 1000  # images that are compared with all others at once


def cka(x: Tensor, y: Tensor) -> float:
    """Return the linear centred kernel alignment of two representations of the same images: 1 if they differ by a
    rotation and a scale.

    Parameters
    ----------
    x, y : Tensor, shapes (N, D) and (N, E)

    References
    ----------
    Kornblith, Norouzi, Lee and Hinton 2019, eq. 5.
    """
    x, y = (z.double() - z.double().mean(0) for z in (x, y))
    return ((y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())).item()


def debiased_cka(grams: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the linear centred kernel alignment of two representations, estimated without bias batch by batch: near
    0, on either side of it, for independent ones however wide they are, where `cka` comes near 1.

    Parameters
    ----------
    grams : iterable of pairs of Tensor, shapes (N, N)
        What `gram` makes of both, batch by batch. Images are drawn at random: a batch of one class would tell of that
        class alone.

    References
    ----------
    Nguyen, Raghu and Kornblith 2021, eq. 3-4.
    """
    found = sum(torch.stack([hsic(k, m), hsic(k, k), hsic(m, m)]) for k, m in grams)
    return (found[0] / (found[1] * found[2]).sqrt().clamp_min(1e-300)).item()


def gram(x: Tensor) -> Tensor:
    """Return the inner products of images' centred features, or maps, as float64 of shape (N, N)."""
    x = exact(x).flatten(1)
    x = x - x.mean(0)
    return x @ x.T


def hsic(k: Tensor, m: Tensor) -> Tensor:
    """Return the unbiased estimate of the Hilbert-Schmidt independence criterion.

    Parameters
    ----------
    k, m : Tensor, shape (N, N)
        Gram matrices of the same N > 3 images.

    References
    ----------
    Song, Smola, Gretton, Bedo and Borgwardt 2012, eq. 5.
    """
    n = len(k)
    k, m = (one - one.diag().diag() for one in (k, m))
    joint = (k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k.sum(0) @ m.sum(0))
    return joint / (n * (n - 3))


def pca(x: Tensor, components: float | str, whiten: bool = False) -> tuple[Tensor, Tensor]:
    """Return the mean of features and their principal directions: ``(x - mean) @ directions`` are the components.

    Parameters
    ----------
    x : Tensor, shape (N, D)
    components : int, float or "all"
        How many, the largest variances first; below 1 so many that they hold more than this share of the variance.
    whiten : bool
        Directions are scaled so that each component has variance 1 over these rows (N - 1 in the denominator).

    Returns
    -------
    mean, directions : Tensor of float64, shapes (D,) and (D, components)

    Raises
    ------
    UserError
        If there are fewer directions: N - 1 or D, whichever is less.
    """
    x = exact(x)
    mean, most = x.mean(0), min(len(x) - 1, x.shape[1])
    some = components_of(components)
    check(some <= most, "components", components, f"must be at most {most} ({len(x)} images, {x.shape[1]} features)")
    _, sizes, directions = torch.linalg.svd(x - mean, full_matrices=False)
    count = some or most
    if count < 1:
        held = sizes.square().cumsum(0) / sizes.square().sum().clamp_min(torch.finfo(x.dtype).tiny)
        count = min(most, int((held <= components).sum()) + 1)
    if whiten:  # what never varies has no variance to be made 1
        count = min(count, max(1, int((sizes > torch.finfo(x.dtype).eps * max(x.shape) * sizes[0]).sum())))
    scale = (len(x) - 1) ** 0.5 / sizes[:count].clamp_min(torch.finfo(x.dtype).tiny) if whiten else 1.0
    return mean, directions[:count].T * scale


def silhouette(x: Tensor, labels: Tensor) -> float:
    """Return the mean silhouette of classes, by cosine distance: near 1 if they are compact and apart, below 0 if they
    are mixed.

    Parameters
    ----------
    x : Tensor, shape (N, D)
    labels : Tensor of int64, shape (N,)
        Of two classes or more; an image that is alone in its class counts as 0.

    References
    ----------
    Rousseeuw 1987, sec. 2.
    """
    labels = labels.unique(return_inverse=True)[1]
    x, counts = F.normalize(x.double()), labels.bincount().double()
    sums = torch.zeros(len(counts), x.shape[1], dtype=x.dtype, device=x.device).index_add_(0, labels, x)
    own = labels[:, None]
    to_classes = counts - x @ sums.T  # summed distances: 1 - cosine
    among = (counts[labels] - 1).clamp(min=1)
    inside = to_classes.gather(1, own)[:, 0] / among
    outside = (to_classes / counts).scatter(1, own, float("inf")).min(1).values
    values = (outside - inside) / torch.maximum(inside, outside).clamp(min=1e-12)
    return torch.where(counts[labels] > 1, values, 0.0).mean().item()


def selectivity(x: Tensor, labels: Tensor) -> Tensor:
    """Return how well each unit tells its best class from the others: the largest area under the ROC curve over
    classes, from 0.5 to 1.

    Parameters
    ----------
    x : Tensor, shape (N, D)
    labels : Tensor of int64, shape (N,)

    Returns
    -------
    Tensor of float64, shape (D,)
    """
    from scipy.stats import rankdata  # takes a second

    labels = labels.unique(return_inverse=True)[1].cpu()
    ranks = torch.from_numpy(rankdata(x.cpu().numpy(), axis=0))  # ties share their mean rank
    counts = labels.bincount().double()[:, None]
    sums = torch.zeros(len(counts), ranks.shape[1], dtype=ranks.dtype).index_add_(0, labels, ranks)
    areas = (sums - counts * (counts + 1) / 2) / (counts * (len(labels) - counts))
    return areas.max(0).values


def knn_accuracy(known: Tensor, known_labels: Tensor, asked: Tensor, labels: Tensor, count: int = 5) -> float:
    """Return the share of images that most of their nearest known images, by cosine, put into the right class; of
    equals the nearer wins.

    Parameters
    ----------
    known, asked : Tensor, shapes (M, D) and (N, D)
    known_labels, labels : Tensor of int64, shapes (M,) and (N,)
    count : int
        Neighbours that vote.
    """
    for given in (known_labels, labels):
        check(
            given.ndim == 1, "labels", tuple(given.shape), "must be one an image; several, or boxes, are not voted on"
        )
    near, classes = F.normalize(known), int(known_labels.max()) + 1
    count = min(count, len(near))
    votes = 1 + 1e-3 * 0.5 ** torch.arange(count, device=near.device)  # the nearest outweighs all that follow it
    right = 0
    for part, wanted in zip(F.normalize(asked).split(ROWS), labels.split(ROWS), strict=True):
        theirs = known_labels[(part @ near.T).topk(count, 1).indices]
        ballot = votes.new_zeros(len(part), classes).scatter_add_(1, theirs, votes.expand_as(theirs))
        right += int((ballot.argmax(1) == wanted).sum())
    return right / len(labels)
