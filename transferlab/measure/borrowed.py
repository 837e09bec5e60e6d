"""Which images of a pool a trial borrows, and whether they look like the target's more than others do."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import check
from ..seeds import stream
from ..specs import Measure, Trial
from ..specs.serial import positive

SHOWN = 5  # neighbours of an image


@dataclass(frozen=True)
class Borrowed(Measure, kind="borrowed", version=1):
    """Which images some training images of the target borrow, and how far these are from them.

    ``asking``: rows of these images in the target's stored training split; ``borrowed``: for each, rows of its
    neighbours in the pool's, nearest first. ``asking_classes`` are their classes; ``borrowed_classes`` and
    ``borrowed_distances`` tell of the `SHOWN` nearest, so that a page can name them without the images.
    ``colour_ratio`` and ``deep_ratio``: the mean distance from an image to its neighbours as a multiple of that to
    random images of the pool; of mean colours (Euclidean), and of what the head of the network that the trial starts
    from reads (one minus the cosine).

    Parameters
    ----------
    images : int
        Of the target, spread evenly over its sample, which is in the order of the classes.
    """

    images: int = 10

    columns: ClassVar[tuple[str, ...]] = (
        *("asking", "asking_classes", "borrowed", "borrowed_classes", "borrowed_distances"),
        *("colour_ratio", "deep_ratio"),
    )

    def __post_init__(self) -> None:
        positive("images", self.images)

    def fits(self, trial: Trial) -> None:
        about = trial.method.columns()
        one = about.get("selected") and not about.get("selected_random") and len(trial.method.reads(trial)) == 1
        check(one and trial.source, "measure", self.kind, "asks for a source, and for a selection of one pool")

    def measure(self, trial: Trial, net: Any, context: Any) -> dict[str, Any]:
        import numpy as np
        import torch
        from torch.nn import functional as F

        from ..data.images import Sample, load, source_sample
        from ..nets.build import head_of
        from ..train.read import inputs_of

        (pool,), (made,) = trial.method.reads(trial), trial.method.tables(trial)
        start, k = context.network(trial), trial.method.selected.k
        sets = [load(its.images, its.size) for its in (trial.target, pool)]
        ours, theirs = (images.splits["train"].pixels for images in sets)
        rows, own = source_sample(pool, trial.seed).rows, context.sample(trial.target, "train", trial.seed).rows.cpu()
        asking = own[torch.linspace(0, len(own) - 1, min(self.images, len(own))).long()].long()
        near, distances = (context.arrays(made)[name][asking] for name in ("indices", "distances"))
        inside = torch.isin(near, rows)
        first = (~inside).long().argsort(dim=1, stable=True)[:, : min(k, int(inside.sum(1).min()))]
        near, distances = near.gather(1, first).long(), distances.gather(1, first)
        generator = torch.Generator().manual_seed(stream(trial.seed, "random images"))
        far = rows[torch.randint(len(rows), near.shape, generator=generator)]

        def classes(images: Any, rows: torch.Tensor) -> list:
            return np.array(images.classes)[images.splits["train"].labels[rows.numpy()]].tolist()

        def looks(pixels: torch.Tensor, rows: torch.Tensor) -> list[torch.Tensor]:
            some = Sample(pixels, rows.flatten(), rows.flatten(), 1)
            colours = pixels[some.rows].float().mean((1, 2))
            deep = inputs_of(start, head_of(start)[2], some.to(context.device)).flatten(1).cpu()
            return [colours.view(*rows.shape, -1), F.normalize(deep.double(), dim=1).view(*rows.shape, -1)]

        (own, own_deep), nearby, random = (looks(*pair) for pair in ((ours, asking), (theirs, near), (theirs, far)))
        apart = [(own[:, None] - colours).norm(dim=2).mean() for colours, _ in (nearby, random)]
        turned = [(1 - (own_deep[:, None] * deep).sum(2)).mean() for _, deep in (nearby, random)]
        ratios = {"colour_ratio": apart[0] / apart[1], "deep_ratio": turned[0] / turned[1]}
        found = {name: round(value.item(), 5) for name, value in ratios.items()}
        names = {"asking_classes": classes(sets[0], asking), "borrowed_classes": classes(sets[1], near[:, :SHOWN])}
        told = [[float(f"{value:.4g}") for value in row] for row in distances[:, :SHOWN].tolist()]
        return {"asking": asking.tolist(), "borrowed": near.tolist()} | names | {"borrowed_distances": told} | found
