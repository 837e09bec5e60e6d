"""What some units of a network see before and after fine-tuning, for pages to show."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import check
from ..specs import Measure, Trial
from ..specs.serial import positive
from .along import layer_taps, same_layers


@dataclass(frozen=True)
class Gallery(Measure, kind="gallery", version=1):
    """Which test images excite some units most, before and after training, and the filters of the first layer.

    Units are of the first layer, the middle one and the last (of `along.layer_taps`); of each layer so many, spread
    evenly from the unit that lost most selectivity to the one that gained most. Lists with an entry a unit:
    ``gallery_layers``, ``gallery_units`` (numbers in their layer), ``gallery_selectivity_*``, ``gallery_*`` (rows of
    these images in the target's stored test split, the most exciting first) and ``gallery_*_classes``, ``before`` and
    ``after``. A unit of a convolution is as excited as its map in the mean. ``filters_*``: each filter of the first
    convolution as base64 of bytes, (height, width, colour), 128 for a weight of 0 and 1 or 255 for its largest.

    Parameters
    ----------
    units : int
        Of each layer.
    images : int
        Of each unit.
    filters : int
        The first so many, if there are more.
    """

    units: int = 3
    images: int = 4
    filters: int = 32

    columns: ClassVar[tuple[str, ...]] = (
        *("gallery_layers", "gallery_units"),
        *(f"{name}_{when}" for name in ("gallery_selectivity", "gallery", "filters") for when in ("before", "after")),
        *("gallery_before_classes", "gallery_after_classes"),
    )

    def __post_init__(self) -> None:
        for name in ("units", "images", "filters"):
            positive(name, getattr(self, name))

    def fits(self, trial: Trial) -> None:
        check(trial.source is not None, "measure", self.kind, "asks for a source")

    def watch(self, trial: Trial, run: Any, context: Any) -> None:
        """Refuse a network that grows, before it is trained."""
        same_layers(self.kind, context.network(trial), run.trained)

    def measure(self, trial: Trial, net: Any, context: Any) -> dict[str, Any]:
        import torch

        from ..data.images import load
        from ..specs.artefacts import stored_split
        from ..train.read import read
        from .representation import selectivity

        start, sample = context.network(trial), context.sample(trial.target, "test", trial.seed)
        stored, layers = load(trial.target.images, trial.target.size), layer_taps(net)
        labels = stored.splits[stored_split(trial.target.images, "test")].labels
        layers = list(dict.fromkeys((layers[0], layers[len(layers) // 2], layers[-1])))
        found: dict[str, list] = {name: [] for name in self.columns}
        seen = {when: read(one, sample, layers) for when, one in (("before", start), ("after", net))}
        for layer in layers:
            of = {when: selectivity(x[layer], sample.labels) for when, x in seen.items()}
            order = (of["after"] - of["before"]).argsort(stable=True)
            for unit in order[torch.linspace(0, len(order) - 1, min(self.units, len(order))).long()].tolist():
                found["gallery_layers"].append(layer)
                found["gallery_units"].append(unit)
                for when, x in seen.items():
                    best = x[layer][:, unit].topk(min(self.images, len(sample.rows))).indices
                    rows = sample.rows[best].tolist()
                    found[f"gallery_{when}"].append(rows)
                    found[f"gallery_{when}_classes"].append([stored.classes[labels[row]] for row in rows])
                    found[f"gallery_selectivity_{when}"].append(round(of[when][unit].item(), 4))
        return found | {f"filters_{when}": self._filters(one) for when, one in (("before", start), ("after", net))}

    def _filters(self, net: Any) -> list[str]:
        """Return the filters of the first convolution as text."""
        import base64

        from .along import weights_of

        weights = next(iter(weights_of(net).values())).detach().cpu()[: self.filters]
        largest = weights.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
        pixels = (128 + 127 * weights / largest).round().byte().permute(0, 2, 3, 1).contiguous()
        return [base64.b64encode(one.numpy().tobytes()).decode() for one in pixels]
