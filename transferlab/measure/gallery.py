"""What some units of a network see before and after fine-tuning, for pages to show."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import check
from ..specs import Measure, Trial
from ..specs.serial import positive
from .along import layer_taps, same_layers, weights_of

SIDE = 40  # of a filter's picture, in px


@dataclass(frozen=True)
class Gallery(Measure, kind="gallery", version=1):
    """Which test images excite some units most, before and after training, and filters of the first layer.

    Units are of the first layer, the middle one and the last (of `along.layer_taps`); of each layer so many, spread
    evenly from the one that lost most selectivity to the one that gained most. A unit of a convolution is as excited
    as its map in the mean.

    ``gallery``: a row an image: the layer, the unit's rank by what it gained, its number in the layer, ``before`` or
    ``after``, its selectivity then, the image's place among those that excite it most, from 1, its row in the target's
    stored test split, and its class. ``filters``: a row a filter of the first convolution and a time, those first that
    changed most relative to their norm: the filter's number, ``before`` or ``after``, and its picture as a URL; grey is
    a weight of 0.

    Parameters
    ----------
    units : int
        Of each layer.
    images : int
        Of each unit.
    shown : int
        Filters.
    """

    units: int = 3
    images: int = 4
    shown: int = 6

    columns: ClassVar[tuple[str, ...]] = ("gallery", "filters")

    def __post_init__(self) -> None:
        for name in ("units", "images", "shown"):
            positive(name, getattr(self, name))

    def fits(self, trial: Trial) -> None:
        check(trial.source is not None, "measure", self.kind, "asks for a source")

    def watch(self, trial: Trial, run: Any, context: Any) -> None:
        """Refuse a network that grows, before it is trained."""
        same_layers(self.kind, context.network(trial), run.trained)

    def measure(self, trial: Trial, net: Any, context: Any) -> dict[str, Any]:
        from torch import linspace

        from ..data.images import load
        from ..specs.artefacts import stored_split
        from ..train.read import read
        from .representation import selectivity

        nets, sample = (
            {"before": context.network(trial), "after": net},
            context.sample(trial.target, "test", trial.seed),
        )
        stored, layers, rows = load(trial.target.images, trial.target.size), layer_taps(net), []
        labels = stored.splits[stored_split(trial.target.images, "test")].labels
        layers = list(dict.fromkeys((layers[0], layers[len(layers) // 2], layers[-1])))
        seen = {when: read(one, sample, layers) for when, one in nets.items()}
        for layer in layers:
            of = {when: selectivity(x[layer], sample.labels) for when, x in seen.items()}
            order = (of["after"] - of["before"]).argsort(stable=True)
            some = order[linspace(0, len(order) - 1, min(self.units, len(order))).long()].tolist()
            for rank, (unit, when) in enumerate((unit, when) for unit in some for when in nets):
                best = seen[when][layer][:, unit].topk(min(self.images, len(sample.rows))).indices
                told = [layer, rank // 2, unit, when, round(of[when][unit].item(), 4)]
                images = enumerate(sample.rows[best].tolist(), 1)
                rows += [[*told, place, row, stored.classes[labels[row]]] for place, row in images]
        return {"gallery": rows, "filters": self._filters(*nets.values())}

    def _filters(self, *nets: Any) -> list[list]:
        """Return filters of the first convolution as pictures."""
        from PIL import Image

        from ..data.pictures import address

        both = [next(iter(weights_of(net).values())).detach().cpu().float() for net in nets]
        changes = (both[1] - both[0]).flatten(1).norm(dim=1) / both[0].flatten(1).norm(dim=1).clamp_min(1e-12)
        found = []
        for which in changes.argsort(descending=True, stable=True)[: self.shown].tolist():
            for when, weights in zip(("before", "after"), both, strict=True):
                one = weights[which].permute(1, 2, 0)
                bytes_ = (128 + 127 * one / one.abs().max().clamp_min(1e-12)).round().byte().numpy()
                tile = Image.fromarray(bytes_).resize((SIDE, SIDE), Image.Resampling.NEAREST)
                found.append([which, when, address(tile)])
        return found
