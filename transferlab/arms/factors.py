"""Arms of the chapters on factors of transferability (Azizpour et al.), at every scale."""

from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from ..errors import check, choose
from ..methods import Probe
from ..scales import scale as scale_of
from ..specs import Backbone, Source, Target, Torchvision, Weights

PHOTO, ART, CARTOON, SKETCH = (f"pacs/{domain}" for domain in ("photo", "art_painting", "cartoon", "sketch"))
DOMAINS = (PHOTO, ART, CARTOON, SKETCH)  # one task, ever farther from photographs
ORDERED = ("caltech101", "cifar100", "scene15", "flowers102", *DOMAINS, "mnist", "bccd")
TOY = {"synthetic:0": 0, "synthetic:0.3": 1, "synthetic:0.6": 2, "synthetic:1": 3}
DISTANCE = {"caltech101": 0, "cifar100": 1, "scene15": 2, "flowers102": 3, "PACS": 4, "mnist": 5, "bccd": 6} | TOY
DISTANCE |= {f"torchvision:{name}": i for i, name in enumerate(("Caltech101", "SUN397", "OxfordIIITPet", "Flowers102"))}
EVEN = {"bccd": 140}  # images of each class, where classes differ in size
FOUR_FIFTHS = {"flowers102": 8}  # of a set with its own validation images: else given networks' seeds were all alike
LAYERS, FLAT = 5, 0.5  # of a network; points within which layers, or dimensions, are equally good
CLASS_MEAN, VALIDATED = "mean_class_accuracy", "validation_mean_class_accuracy"  # classes may differ in size
FEW = 4  # seeds whose validation images choose, and of what is no main contrast


@dataclass(frozen=True)
class Network:
    """A trained network, and where it is read.

    Attributes
    ----------
    backbone : Backbone
    source : Source or Weights
    size : int
        Side of the images that it is given, in pixels.
    taps : tuple of str
        Layers that are read, from the first to the one that its head reads.
    maps : str
        The last layer with maps, which can be pooled.
    """

    backbone: Backbone
    source: Source | Weights
    size: int
    taps: tuple[str, ...]
    maps: str

    @property
    def last(self) -> str:
        """The layer that is read unless another one is asked for."""
        return self.taps[-1]

    def target(self, name: str, scale: str, **subset: object) -> Target:
        """Return a target at this network's size, or a part of it as the fields of `Subset` say."""
        few = EVEN | (FOUR_FIFTHS if isinstance(self.source, Weights) else {})
        even = {"per_class": few[name]} if name in few else {}
        return Target(name, self.size, replace(scale_of(scale).target_subset, **even | subset))


def networks(scale: str) -> dict[str, Network]:
    """Return the networks that are read at a scale, by name: at most two that saw ImageNet, and our own."""
    s = scale_of(scale)
    source = Weights("torchvision:IMAGENET1K_V1") if scale == "paper" else s.source_of()
    if s.reference:
        source = replace(source, recipe=s.reference)
    convolutions = ("features.2", "features.5", "features.12") if scale == "paper" else ("conv1", "pool2", "pool5")
    own = Network(s.backbone, source, s.size, (*convolutions, "fc6", "fc7"), convolutions[-1])
    if scale in ("smoke", "paper"):
        return {"our AlexNet" if scale == "smoke" else "AlexNet": own}
    given = {
        "SqueezeNet": ("squeezenet1_0", ("features.2", "features.5", "features.7", "features.10", "features.12")),
        "MobileNetV2": ("mobilenet_v2", ("features.3", "features.6", "features.10", "features.13", "features.18")),
    }
    theirs = {
        name: Network(Torchvision(file), Weights(f"file:{file}.safetensors"), 128, taps, taps[-1])
        for name, (file, taps) in given.items()
    }
    return theirs | {"our AlexNet": own}


def judged(scale: str) -> list[str]:
    """Return the networks that rules judge: those that saw ImageNet, or our own where there is none."""
    of = networks(scale)
    return [name for name, network in of.items() if isinstance(network.source, Weights)] or list(of)


def targets(scale: str) -> tuple[str, ...]:
    """Return the tasks, from the one that is most like the source's to the one that is least."""
    if scale == "paper":
        return scale_of(scale).targets
    return tuple(TOY) if scale == "smoke" else ORDERED


def family(target: str) -> str:
    """Return the family of a target: PACS for each of its domains."""
    return "PACS" if target in DOMAINS else target


def families(names: list[str]) -> list[str]:
    """Return the families of targets, nearest first: the paper's categories, then drawings, digits and cells."""
    return sorted({*map(family, names)}, key=lambda name: DISTANCE[choose("family", name, DISTANCE)])


def over_families(values: pd.Series) -> pd.DataFrame:
    """Return numbers by target as means over families, in the column ``y`` beside how far each is, ``x``."""
    means = values.groupby([family(target) for target in values.index]).mean()
    order = families(list(means.index))
    return pd.DataFrame({"x": [DISTANCE[name] for name in order], "y": means[order]})


# ------------------------------------------------------------------------------------ how features are read, and where


def dimensions(scale: str) -> tuple[int, ...]:
    """Return how many principal components are kept."""
    return (4, 32) if scale == "smoke" else (16, 32, 64, 128, 256)


def readings(network: Network, scale: str) -> dict[str, tuple[dict[str, Any], Probe]]:
    """Return the standard setting, every other layer and fewer dimensions: by its name an arm's factors and method."""
    standard = Probe(network.last, normalise=True)
    found = {"standard": ({"part": "main", "layer": LAYERS, "dims": "full"}, standard)}
    for layer, tap in enumerate(network.taps[:-1], 1):
        found[f"layer {layer}"] = {"part": "layer", "layer": layer}, replace(standard, tap=tap)
    for dims in dimensions(scale):
        found[f"{dims} dimensions"] = {"part": "dims", "dims": str(dims)}, replace(standard, components=dims)
    return found


def accuracies(study: Any, column: str, value: str = CLASS_MEAN) -> pd.DataFrame:
    """Return accuracies of the judged networks on a study's targets.

    Parameters
    ----------
    study : Study
    column : {"layer", "dims"}
    value : str

    Returns
    -------
    DataFrame
        A row for each network, target and seed; a column for each layer, or number of dimensions, in their order.
    """
    wanted = study.records["network"].isin(judged(study.scale)) & study.records["target"].isin(study.targets)
    rows = study.records[wanted & study.records[column].notna()]
    check(len(rows) > 0, "records", column, f"there is none on {', '.join(study.targets)}")
    table = rows.pivot(index=["network", "target", "seed"], columns=column, values=value)
    check(not table.isna().any(axis=None), "records", column, "an arm lacks a seed and target")
    return table if column == "layer" else table[[*map(str, dimensions(study.scale)), "full"]]


def last_of_best(table: pd.DataFrame) -> pd.Series:
    """Return for each row the last column within half a point of the best: flat choices are no choices."""
    return table.ge(table.max(axis=1) - FLAT, axis=0).apply(lambda row: row[row].index[-1], axis=1)


def best(study: Any, column: str, but: tuple[str, ...] = ()) -> pd.Series:
    """Return the layer, or number of dimensions, that validation images choose, by network and target.

    Those of a study's first four seeds decide.
    """
    table = accuracies(study, column, VALIDATED).drop(columns=list(but))
    first = table[table.index.get_level_values("seed").isin(study.seeds[:FEW])]
    return last_of_best(first.groupby(["network", "target"]).mean())


def depths(study: Any) -> pd.Series:
    """Return the best layer of every target as a number, from 1; means over networks."""
    return best(study, "layer").astype(float).groupby("target").mean()


def fewer(study: Any) -> pd.DataFrame:
    """Return points that fewer dimensions bring, as many as `best` chooses: a row a seed, a column a target; means over
    networks.
    """
    test, chosen = accuracies(study, "dims"), best(study, "dims", ("full",))
    found = {at: row[chosen[at[:2]]] - row["full"] for at, row in test.iterrows()}
    return pd.Series(found).groupby(level=[2, 1]).mean().unstack()
