"""Retrieval in frozen features: whether the images that lie nearest to one are of its class. Nothing is trained."""

from dataclasses import dataclass, replace
from typing import Any

from ..errors import check
from ..measure.borrowed import SHOWN
from ..seeds import stream
from ..specs import Artefact, ImageSet, Method, Target, Trial
from ..specs.serial import components_of, each, flags, positive

DRAWN, SHARE, LEARNED = 1000, 0.8, 4000  # images, and share of a split, that a seed draws; parts that PCA learns from
ROOM, ASKING = 1 << 26, 3  # distances in memory; queries that are put on record with `SHOWN` answers each


@dataclass(frozen=True)
class Retrieval(Method, kind="retrieval", version=1):
    """No training: an image asks for images of its class, and gets all others in the order of their distance.

    Test images ask among test images; validation images among training images, by which settings can be chosen. Each
    seed draws 80% of a split, 1,000 images at most. PCA is learned on training images. Vectors are scaled to length 1
    before and after it. With levels, images are compared by their parts (Azizpour et al.): each part of the query looks
    for the nearest part of the other image, and the image's distance is the mean of these.

    Parameters
    ----------
    tap : str
        The layer that is read.
    components : int, float or "all", optional
        So many principal components are kept; below 1 so many that they hold more than this share of the variance.
    whiten : bool, optional
        Components get variance 1.
    levels : int
        Maps are divided into 1 x 1, 2 x 2 ... parts, up to so many a side, each pooled into one vector.
    pool : {"max"}, optional
        The largest value of a part instead of its mean.
    queries : ImageSet, optional
        Another set, of the same classes, whose images ask in the target's.
    """

    tap: str = "pool5"
    components: float | str | None = None
    whiten: bool | None = None
    levels: int = 1
    pool: str | None = None
    queries: ImageSet | None = None

    def __post_init__(self) -> None:
        positive("levels", self.levels)
        flags(self, "whiten")
        components_of(self.components)
        check(self.components or not self.whiten, "whiten", self.whiten, "asks for a number of components")
        check(self.pool in (None, "max"), "pool", self.pool, "must be max, or left out for the mean")

    def reads(self, trial: Trial) -> tuple[Target, ...]:
        return tuple(replace(trial.target, images=images) for images in each(self.queries) if images)

    def needs(self, trial: Trial) -> tuple[Artefact, ...]:
        maps = self.tap if self.levels != 1 or self.pool else None
        trials = (trial, *(replace(trial, target=one) for one in self.reads(trial)))
        return tuple(made for one in trials for made in one.features(maps))

    def evaluate(self, trial: Trial, context: Any) -> dict[str, Any]:
        """Let test images ask among test images, and validation images among training images.

        A query is never its own answer; one that has no answer is left out.

        Returns
        -------
        dict
            ``map``, the mean average precision; ``accuracy``, the share of queries whose first answer is of their class
            (of equals that which comes first); ``chance``, the mean share of right answers among all; ``n``
            queries. All of the validation images too. Of a few queries of the test: ``asked``, their rows in the stored
            split; ``answered``, those of their first answers; both with classes (``asked_classes``,
            ``answered_classes``), and the answers' distances (``answered_distances``).

        Raises
        ------
        UserError
            If the network has no such tap, its maps have fewer positions than levels, there are fewer training images
            than components, the set that asks has other classes, or no query has an answer.
        """
        from torch.nn.functional import normalize

        from ..measure.representation import pca

        target, ask = trial.target, (*self.reads(trial), trial.target)[0]
        wanted = ((target, "train"), (target, "test"), (ask, "validation"), (ask, "test"))
        train, test, held, asked = (drawn(context.sample(of, split, trial.seed), trial.seed) for of, split in wanted)
        x = [normalize(self._vectors(trial, context, sample), dim=2) for sample in (train, test, held, asked)]
        if self.components:
            known = x[0].transpose(0, 1).flatten(0, 1)  # place by place: of each the same images
            made = pca(known[:: -(-len(known) // LEARNED)], self.components, bool(self.whiten))
            mean, basis = (value.to(known) for value in made)
            x = [normalize((value - mean) @ basis, dim=2) for value in x]
        return scores(held, train, distances(x[2], x[0]), "validation_") | scores(asked, test, distances(x[3], x[1]))

    def _vectors(self, trial: Trial, context: Any, sample: Any) -> Any:
        """Return the vectors of images, one for each part: (images, parts, units)."""
        import torch

        from ..train.read import pooled

        x = context.features(trial, sample, self.tap, 1 if self.levels == 1 else None, self.pool)
        side = min(x.shape[2:]) if x.ndim == 4 else 1
        check(self.levels <= side, "levels", self.levels, f"must be at most {side}, the side of the maps at {self.tap}")
        parts = [pooled(x, n, self.pool or "mean").view(*x.shape[:2], -1) for n in range(1, self.levels + 1)]
        return torch.cat(parts, 2).transpose(1, 2)


def drawn(sample: Any, seed: int) -> Any:
    """Return the images of a sample that a seed draws, in their order."""
    import torch

    order = torch.randperm(n := len(sample.rows), generator=torch.Generator().manual_seed(stream(seed, "retrieval")))
    some = order[: min(DRAWN, max(1, round(SHARE * n)))].sort().values
    return replace(sample, rows=sample.rows[some.to(sample.rows.device)], labels=sample.labels[some.to(sample.labels)])


def distances(asked: Any, known: Any) -> Any:
    """Return the distance of every image from every query, (queries, images): the mean over the query's parts of the
    distance to the nearest of the image's.

    Parameters
    ----------
    asked, known : Tensor, shapes (queries, parts, units) and (images, parts, units)
    """
    flat, found = known.flatten(0, 1), known.new_empty(len(asked), len(known))
    step = max(1, ROOM // (asked.shape[1] * len(flat)))
    for some, into in zip(asked.split(step), found.split(step), strict=True):
        # squares, but for the query's own
        near = flat.square().sum(1).addmm(some.flatten(0, 1), flat.T, alpha=-2).view(*some.shape[:2], *known.shape[:2])
        into[:] = (near.amin(3) + some.square().sum(2, keepdim=True)).clamp(min=0).sqrt().mean(1)
    return found


def average_precision(away: Any, right: Any) -> tuple[Any, Any]:
    """Return each query's average precision, and the order of its answers.

    An answer counts as if it stood last among those at its distance, so no order of equals matters.

    Parameters
    ----------
    away : Tensor, shape (queries, images)
        Distances.
    right : Tensor of bool
        Whether an image is of the query's class: one in each row at least.
    """
    import torch

    near, order = away.sort(dim=1, stable=True)
    right, ends = right.gather(1, order), torch.searchsorted(near, near, right=True)
    precision = right.cumsum(1).gather(1, ends - 1).double() / ends
    return (precision * right).sum(1) / right.sum(1), order


def scores(asked: Any, among: Any, away: Any, before: str = "") -> dict[str, Any]:
    """Return what is put on record of queries; without a word `before` it, a few of them and their answers too."""
    check(asked.names == among.names, "queries", asked.images.name, f"must have the classes of {among.images.name}")
    same = (asked.images, asked.split) == (among.images, among.split)
    own = (asked.rows[:, None] == among.rows).to(away.device) & same
    right = (asked.labels[:, None] == among.labels) & ~own
    some, count = right.any(1).nonzero()[:, 0], len(among.rows) - same
    check(len(some) > 0, "queries", asked.images.name, f"none has another image of its class in {among.images.name}")
    precision, order = average_precision(away.masked_fill(own, float("inf"))[some], right[some])
    means = {"map": precision, "accuracy": right[some].gather(1, order[:, :1]).double()}
    means["chance"] = right[some].sum(1) / (~own[some]).sum(1)
    found = {f"{before}{name}": round(value.mean().item(), 5) for name, value in means.items()}
    found[f"{before}n"] = len(some)
    if before:
        return found
    at = [i * (len(some) - 1) // (ASKING - 1) for i in range(ASKING)]
    rows, near = some[at], order[at, : min(SHOWN, count)]
    found |= {"asked": asked.rows[rows.cpu()].tolist(), "answered": among.rows[near.cpu()].tolist()}
    found["asked_classes"] = [asked.names[i] for i in asked.labels[rows].tolist()]
    found["answered_classes"] = [[among.names[i] for i in labels] for labels in among.labels[near].tolist()]
    return found | {"answered_distances": away[rows].gather(1, near).double().round(decimals=4).tolist()}
